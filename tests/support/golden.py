"""The golden record: a small run, made by hand, that is committed as `tests/golden/run/`.

A change of the schema shows up as a difference between the two. If it is meant, rebuild the files with
`python -c "from tests.support.golden import write; write()"` and read the diff.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from mimo_bench.layout.layout import Layout
from mimo_bench.record import (
    AsTimed,
    Difference,
    Environment,
    EvaluationResult,
    Launch,
    LayoutRecord,
    Mode,
    ModuleGrid,
    Parity,
    Ranked,
    RankRecord,
    RunRecord,
    Timing,
    Tolerance,
)
from mimo_bench.record.files import write_run
from mimo_bench.record.series import write_series
from mimo_bench.scenario.scenario import Scenario

GOLDEN = Path(__file__).parents[1] / "golden" / "run"

BASELINE = "colocated-dp2"
DISJOINT = "vision-dp2--language-tp2"
WRONG = "vision-dp1--language-dp2"
CRASHED = "vision-dp1--language-pp2"

TOKENS_PER_STEP = 640
LOSSES = (5.5478217601776123, 5.3125, 5.0871429443359375)
GRAD_NORMS = {"vision": (0.5, 0.46875, 0.4375), "language": (2.0, 1.875, 1.75)}
TOLERANCE = Tolerance(loss_rel=1e-6, grad_norm_rel=1e-5)

# What each layout's own numbers differ by, relative to the baseline's, step by step.
LOSS_DRIFT = {BASELINE: (0.0, 0.0, 0.0), DISJOINT: (0.0, 8e-8, 2e-7), WRONG: (0.0, 3e-4, 2e-3)}
VISION_SCALE = {BASELINE: 1.0, DISJOINT: 1.0 + 4e-7, WRONG: 0.5}
STEP_SECONDS = {BASELINE: (0.25, 0.21, 0.19, 0.2), DISJOINT: (0.18, 0.15, 0.13, 0.14)}


SETTINGS = {
    "distributed_optimizer": False,
    "overlap_grad_reduce": False,
    "overlap_param_gather": False,
    "sequence_parallel": False,
    "recompute_activations": False,
}


def _grid(**degrees: int) -> dict[str, int]:
    return {"tp": 1, "cp": 1, "pp": 1, "dp": 1, "rank_offset": 0} | degrees


def _table(name: str, *, vision: dict[str, int], language: dict[str, int]) -> dict[str, Any]:
    unset = {"global_micro_batch_size": None, "settings": SETTINGS}
    return {"name": name, "vision": _grid(**vision), "language": _grid(**language), **unset}


# Spelled out as version 0.1 wrote it, and not made by today's `Scenario`: a field that is added later, with a default,
# must leave old records readable and true to themselves.
SCENARIO: dict[str, Any] = {
    "question": "What does taking the vision encoder off the language ranks buy?",
    "model": "llava-tiny",
    "data": "synthetic",
    "seed": 0,
    "global_batch_size": 16,
    "global_micro_batch_size": 4,
    "seq_length": 64,
    "precision": "fp32",
    "baseline": BASELINE,
    "steps": {"parity": 3, "learning": 0, "warmup": 1, "timed": 4},
    "training": {
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "clip_grad_norm": 1.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-8,
    },
    "evaluation": {"num_batches": 1, "min_answer_accuracy": None},
    "layout": [
        _table(BASELINE, vision={"dp": 2}, language={"dp": 2}),
        _table(DISJOINT, vision={"dp": 2}, language={"tp": 2, "rank_offset": 2}),
        _table(WRONG, vision={}, language={"dp": 2, "rank_offset": 1}),
        _table(CRASHED, vision={}, language={"pp": 2, "rank_offset": 1}),
    ],
}


def scenario() -> Scenario:
    """Four layouts of llava-tiny, three parity steps and four timed ones."""
    made = Scenario.model_validate(SCENARIO)
    made.check()
    return made


def record() -> RunRecord:
    """The golden record: a baseline, a disjoint layout that passes, one that fails parity, one that crashes."""
    canonical = json.dumps(SCENARIO, sort_keys=True, separators=(",", ":"))
    return RunRecord(
        scenario=SCENARIO,
        scenario_file="scenarios/cpu-smoke.toml",
        scenario_hash=hashlib.sha256(canonical.encode()).hexdigest(),
        code_hash="c0de" * 16,
        question=SCENARIO["question"],
        started_at=datetime(2025, 11, 3, 2, 0, 0, tzinfo=UTC),
        finished_at=datetime(2025, 11, 3, 2, 1, 12, tzinfo=UTC),
        command=("mimo-bench", "run", "scenarios/cpu-smoke.toml"),
        modes=("parity", "timing"),
        environment=environment(),
        baseline=BASELINE,
        layouts=(_baseline(), _disjoint(), _wrong(), _crashed()),
        ranking=(
            Ranked(
                name=BASELINE, reason="1,506 tokens/s per CPU rank of 2; 41.2 % above the next", tied_with_best=None
            ),
            Ranked(name=DISJOINT, reason="1,067 tokens/s per CPU rank of 4", tied_with_best=False),
        ),
    )


def environment() -> Environment:
    """A laptop without a GPU."""
    return Environment(
        git_commit="0123456789abcdef0123456789abcdef01234567",
        git_dirty=False,
        hosts=("bench-1",),
        device_kind="cpu",
        devices=(),
        cpu="Example CPU @ 2.00GHz",
        num_cpus=8,
        driver=None,
        cuda=None,
        nccl=None,
        python="3.12.7",
        torch="2.11.0",
        megatron_core="0.19.2",
        transformers="5.0.0",
        platform="Linux-6.1-x86_64",
    )


def _baseline() -> LayoutRecord:
    parity = Parity(
        verdict="baseline",
        reason="the loss fell from 5.548 to 5.087 over 3 steps",
        loss_rel_max=0.0,
        grad_norm_rel={"vision": 0.0, "language": 0.0},
        tolerance=TOLERANCE,
        weights_match_at_start=True,
        samples_match=True,
        as_timed=AsTimed(verdict="baseline", reason="2 variants set the band", num_steps=3, band=TOLERANCE),
    )
    return _layout(
        BASELINE,
        status="passed",
        reason="the baseline: its loss fell and its gradients are alive",
        parity=parity,
        evaluation=EvaluationResult(loss=4.75, answer_accuracy=0.125, num_samples=16),
        timing=timing(STEP_SECONDS[BASELINE], world_size=2),
        launches=(_launch("parity", None), _launch("timing", 11.5)),
    )


def _disjoint() -> LayoutRecord:
    parity = Parity(
        verdict="passed",
        reason="3 steps agree with colocated-dp2: loss within 2.0e-07, gradient norms within 4.0e-07",
        loss_rel_max=2e-7,
        grad_norm_rel={"vision": 4e-7, "language": 0.0},
        worst_gradient=Difference(module="vision", parameter="projector.linear_fc1.weight", rel=4e-7),
        worst_weight=Difference(module="language", parameter="output_layer.weight", rel=1e-7),
        tolerance=TOLERANCE,
        weights_match_at_start=True,
        samples_match=True,
        as_timed=AsTimed(
            verdict="passed",
            reason="3 steps lie within the noise band",
            num_steps=3,
            loss_rel_max=3e-7,
            grad_norm_rel={"vision": 5e-7, "language": 1e-7},
            band=TOLERANCE,
        ),
    )
    return _layout(
        DISJOINT,
        status="passed",
        reason=parity.reason,
        parity=parity,
        evaluation=EvaluationResult(loss=4.75, answer_accuracy=0.125, num_samples=16),
        timing=timing(STEP_SECONDS[DISJOINT], world_size=4),
        launches=(_launch("parity", 9.75), _launch("timing", 12.25)),
    )


def _wrong() -> LayoutRecord:
    parity = Parity(
        verdict="failed",
        reason="vision gradient norm is 0.5 times the baseline's from step 0 (5.0e-01 > 1.0e-05)",
        loss_rel_max=2e-3,
        first_divergence_step=0,
        grad_norm_rel={"vision": 0.5, "language": 0.0},
        worst_gradient=Difference(module="vision", parameter="decoder.layers.0.mlp.linear_fc1.weight", rel=0.5),
        tolerance=TOLERANCE,
        weights_match_at_start=True,
        samples_match=True,
    )
    return _layout(
        WRONG, status="parity_failed", reason=parity.reason, parity=parity, launches=(_launch("parity", 10.0),)
    )


def _crashed() -> LayoutRecord:
    return _layout(
        CRASHED,
        status="crashed",
        reason="rank 2 ended with exit code 1: RuntimeError: mat1 and mat2 cannot be multiplied (64x32 and 64x128)",
    )


def _layout(name: str, *, status: Any, reason: str, **known: Any) -> LayoutRecord:
    layout = scenario().table(name).grids()
    if name in LOSS_DRIFT:
        known |= {"losses": _losses(name), "grad_norms": _grad_norms(name)}
    return LayoutRecord(
        name=name,
        placement=layout.placement,
        world_size=layout.world_size,
        modules=module_grids(layout),
        settings=SETTINGS,
        status=status,
        reason=reason,
        **known,
    )


def module_grids(layout: Layout) -> dict[str, ModuleGrid]:
    """A layout's grids as a record holds them."""
    return {
        name: ModuleGrid(tp=grid.tp, cp=grid.cp, pp=grid.pp, dp=grid.dp, ranks=tuple(grid.ranks))
        for name, grid in layout.modules.items()
    }


def timing(step_seconds: tuple[float, ...], *, world_size: int, global_batch_size: int = 16) -> Timing:
    """Wall-clock timing with every rate worked out from the step series."""
    ordered, steps, seconds = sorted(step_seconds), len(step_seconds), sum(step_seconds)

    def quartile(share: float) -> float:
        below = int(share * (steps - 1))
        above = min(below + 1, steps - 1)
        return ordered[below] + (share * (steps - 1) - below) * (ordered[above] - ordered[below])

    return Timing(
        clock="wall",
        step_seconds=step_seconds,
        step_seconds_median=median(step_seconds),
        step_seconds_iqr=quartile(0.75) - quartile(0.25),
        tokens_per_step=float(TOKENS_PER_STEP),
        tokens_per_second=TOKENS_PER_STEP * steps / seconds,
        tokens_per_second_per_gpu=TOKENS_PER_STEP * steps / seconds / world_size,
        samples_per_second=global_batch_size * steps / seconds,
        images_per_second=global_batch_size * steps / seconds,
    )


def _launch(mode: Mode, gap_seconds: float | None) -> Launch:
    return Launch(mode=mode, start_seconds=6.5, setup_seconds=2.25, gap_seconds=gap_seconds)


def _losses(name: str) -> tuple[float, ...]:
    return tuple(loss * (1.0 + drift) for loss, drift in zip(LOSSES, LOSS_DRIFT[name], strict=True))


def _grad_norms(name: str) -> dict[str, tuple[float | None, ...]]:
    scaled = tuple(norm * VISION_SCALE[name] for norm in GRAD_NORMS["vision"])
    return {"vision": scaled, "language": GRAD_NORMS["language"]}


def ranks(name: str) -> tuple[RankRecord, ...]:
    """Records of one layout's ranks: a parity launch, and a timing launch if the layout was timed."""
    layout = scenario().table(name).grids()
    modes: tuple[Mode, ...] = ("parity", "timing") if name in STEP_SECONDS else ("parity",)
    return tuple(
        rank_record(rank, mode=mode, layout=layout, name=name) for mode in modes for rank in range(layout.world_size)
    )


def rank_record(rank: int, *, mode: Mode, layout: Layout, name: str) -> RankRecord:
    """One rank of one launch; a timing launch takes one warmup step before its window."""
    step_seconds = STEP_SECONDS[name] if mode == "timing" else ()
    num_steps = len(LOSSES) if mode == "parity" else 1 + len(step_seconds)
    return RankRecord(
        rank=rank,
        mode=mode,
        host="bench-1",
        device="cpu",
        modules=layout.modules_of(rank),
        seed_used=0,
        started_at=1762135206.5,
        first_step_at=1762135208.75,
        last_step_at=1762135209.5,
        losses=_losses(name) if mode == "parity" else (5.5,) * num_steps,
        grad_norms=_grad_norms(name) if mode == "parity" else dict[str, tuple[float | None, ...]](),
        tokens=(TOKENS_PER_STEP,) * num_steps,
        items={"vision": (16,) * num_steps},
        clock="wall",
        step_seconds=step_seconds,
        weights_match_at_start=True,
        samples_match=True,
        mismatch=None,
        evaluation=None,
        memory=None,
    )


def write(directory: Path = GOLDEN) -> None:
    """Write the golden record and its series into `directory`."""
    write_run(directory, record())
    for name in LOSS_DRIFT:
        write_series(directory, name, ranks(name))
