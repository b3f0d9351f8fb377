"""Scenarios and records of any size, made up: what no machine of ours can run or produce.

Every number follows from a layout's index, so that two builds are equal.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import product
from typing import Any

from mimo_bench.layout.grid import Grid
from mimo_bench.layout.layout import Layout
from mimo_bench.record import (
    Account,
    AsTimed,
    Communication,
    Device,
    EvaluationResult,
    Launch,
    LayoutRecord,
    Memory,
    MemoryParts,
    ModuleMemory,
    ModuleTiming,
    Parity,
    RankMemoryOf,
    RunRecord,
    Status,
    Tolerance,
)
from mimo_bench.record.schema.communication import RankAccountOf
from mimo_bench.report.ranking import rank_layouts
from tests.support import golden

GIB = 1024**3
AXES = ("tp", "pp", "dp")
BASELINE = "colocated-baseline"
TOLERANCE = Tolerance(loss_rel=1e-5, grad_norm_rel=1e-4, gradient_rel=1e-4)
UNHAPPY: dict[int, tuple[Status, str]] = {
    5: ("parity_failed", "gradients of vision.* are 0.50 x the baseline's, uniformly; vision dp 2, language dp 1"),
    11: ("oom", "rank 3 ran out of device memory: 139.8 GiB, 1.2 GiB more asked for in language backward"),
    17: ("crashed", "rank 0 ended with exit code 1: RuntimeError: an error of its own"),
}
"""What every twentieth layout ends as, by its index from there."""


FLAGS = ("distributed_optimizer", "overlap_grad_reduce", "recompute_activations", "fused_optimizer")
SCENARIO = """\
question = "Which of very many layouts?"
model = "llava-tiny"
global_batch_size = 64
global_micro_batch_size = 64
seq_length = 64
baseline = "baseline"

[[layout]]
name = "baseline"
vision = { dp = 2 }
language = { dp = 2 }
"""


def scenario(*, num_layouts: int, most_ranks: int = 16) -> str:
    """A scenario file of `num_layouts` disjoint layouts on up to `most_ranks` ranks, no two alike, and a baseline."""
    found = list(_disjoint(most_ranks))
    assert len(found) >= num_layouts, f"there are only {len(found)} such layouts"
    random.Random(0).shuffle(found)
    tables = (f'[[layout]]\nname = "layout-{index}"\n{said}\n' for index, said in enumerate(found[:num_layouts]))
    return "\n".join([SCENARIO, *tables])


def _disjoint(most_ranks: int) -> Iterator[str]:
    """Every way to set two modules apart: degrees, which comes first, micro-batches, settings."""
    degrees = ((tp, pp, dp) for tp in (1, 2, 4) for pp in (1, 2, 4) for dp in (1, 2, 4, 8))
    grids = [each for each in degrees if math.prod(each) < most_ranks]
    settings = [dict(zip(FLAGS, chosen, strict=True)) for chosen in product((False, True), repeat=len(FLAGS))]
    settings += [
        each | {further: True} for further in ("sequence_parallel", "compile_layers") for each in settings[:16]
    ]
    for vision, language in product(grids, grids):
        sizes = math.prod(vision), math.prod(language)
        divides = vision[2] % language[2] == 0 or language[2] % vision[2] == 0
        if sum(sizes) > most_ranks or not divides:
            continue
        for is_first, micro_batch, chosen in product((True, False), (8, 16, 32, 64), settings):
            yield "\n".join(
                [
                    f"vision = {_keys(vision, 0 if is_first else sizes[1])}",
                    f"language = {_keys(language, sizes[0] if is_first else 0)}",
                    f"global_micro_batch_size = {micro_batch}",
                    f"settings = {{ {', '.join(f'{name} = true' for name, on in chosen.items() if on)} }}",
                ]
            )


def _keys(grid: tuple[int, int, int], rank_offset: int) -> str:
    """A grid as a file spells it: what is the default is left out."""
    degrees = [f"{axis} = {degree}" for axis, degree in zip(AXES, grid, strict=True) if degree > 1]
    return f"{{ {', '.join([*degrees, *([f'rank_offset = {rank_offset}'] if rank_offset else [])])} }}"


def run(*, num_layouts: int = 12, num_ranks: int = 8, num_steps: int = 10, **update: Any) -> RunRecord:
    """A run on made-up GPUs over `num_layouts` layouts of `num_ranks` ranks each."""
    layouts = tuple(_layout(index, num_ranks, num_steps) for index in range(num_layouts))
    devices = tuple(Device(name="Example GPU", uuid=_uuid(rank), total_bytes=140 * GIB) for rank in range(num_ranks))
    environment = golden.environment().model_copy(update={"device_kind": "cuda", "devices": devices})
    record = golden.record().model_copy(
        update={
            "question": "Which of many layouts is best on an example machine?",
            "scenario_file": "scenarios/example.toml",
            "baseline": BASELINE,
            "layouts": layouts,
            "environment": environment,
            "ranking": rank_layouts(layouts),
            "modes": ("parity", "timing", "comm"),
        }
    )
    return record.model_copy(update=update)


def _layout(index: int, num_ranks: int, num_steps: int) -> LayoutRecord:
    draw = random.Random(index)
    grids = _grids(index, num_ranks)
    status, reason = UNHAPPY.get(index % 20, ("passed", "10 steps agree: loss to 2.1e-07, each gradient to 4e-06"))
    if index == 0:
        status, reason = "passed", "every layout is held against this one; its loss went from 5.5 to 4.9"
    # A crash or an exhausted memory leaves parity behind and no timing.
    is_timed = status == "passed"
    known: dict[str, Any] = {"losses": _losses(status, draw, num_steps)}
    known["grad_norms"] = {"vision": known["losses"], "language": known["losses"]}
    known["parity"] = _parity(index, status, reason, draw)
    known["launches"] = (*_launches(),)
    if is_timed:
        pace = 0.4 * (0.8 + 0.4 * draw.random())
        steps = tuple(pace * (1.0 + 0.01 * draw.gauss(0.0, 1.0)) for _ in range(num_steps))
        known["timing"] = golden.timing(steps, world_size=num_ranks).model_copy(update={"clock": "cuda_events"})
        known["memory"] = _memory(grids, draw)
        known["account"] = Account(ranks=tuple(_rank_account(rank, grids, pace) for rank in range(grids.world_size)))
        known["timing"] = known["timing"].model_copy(
            update={"modules": {name: _module(name) for name in grids.modules}}
        )
        known["communication"] = (*_communication(grids, pace),)
        known["evaluation"] = EvaluationResult(loss=4.8, answer_accuracy=0.12, num_samples=64)
    return LayoutRecord(
        name=BASELINE if index == 0 else f"{_name(grids)}-{index}",
        placement=grids.placement,
        world_size=grids.world_size,
        modules=golden.module_grids(grids),
        settings=golden.SETTINGS | {"compile_layers": index % 3 == 0, "attention": "unfused"},
        status=status,
        reason=reason,
        **known,
    )


def _grids(index: int, num_ranks: int) -> Layout:
    """Colocated for every third layout, otherwise an encoder on a quarter of the ranks and a pipeline on the rest."""
    if index % 3 == 0 or num_ranks < 4:
        tp = min(2 ** (index % 3), num_ranks)
        return Layout(modules={name: Grid(tp=tp, dp=num_ranks // tp) for name in ("vision", "language")})
    few = num_ranks // 4
    rest = num_ranks - few
    return Layout(
        modules={"vision": Grid(dp=few), "language": Grid(tp=1, pp=rest // few, dp=few, rank_offset=few)}
        if index % 3 == 1
        else {"vision": Grid(dp=few), "language": Grid(tp=rest // few, dp=few, rank_offset=few)}
    )


def _name(layout: Layout) -> str:
    def short(grid: Grid) -> str:
        return "".join(f"{axis}{degree}" for axis in AXES if (degree := getattr(grid, axis)) > 1) or "1"

    return "--".join(f"{name}-{short(grid)}" for name, grid in layout.modules.items())


def _losses(status: Status, draw: random.Random, num_steps: int) -> tuple[float, ...]:
    drift = 2e-3 if status == "parity_failed" else 2e-7
    return tuple(
        (4.8 + 0.7 * math.exp(-step / 5.0)) * (1.0 + drift * draw.random() * step / num_steps)
        for step in range(num_steps)
    )


def _parity(index: int, status: Status, reason: str, draw: random.Random) -> Parity:
    is_baseline = index == 0
    failed = status == "parity_failed"
    known: dict[str, Any] = {}
    if not is_baseline:
        known["loss_rel_max"] = 2e-3 if failed else 2e-7 * draw.random()
        known["grad_norm_rel"] = {"vision": 0.5 if failed else 4e-7 * draw.random(), "language": 1e-7}
        known["first_divergence_step"] = 0 if failed else None
    timed = AsTimed(
        verdict="baseline" if is_baseline else "passed",
        reason="10 steps lie within the noise band",
        num_steps=10,
        loss_rel_max=None if is_baseline else 3e-4,
        band=Tolerance(loss_rel=9.6e-4, grad_norm_rel=2.6e-2),
    )
    return Parity(
        verdict="baseline" if is_baseline else "failed" if failed else "passed",
        reason=reason,
        tolerance=TOLERANCE,
        weights_match_at_start=True,
        samples_match=True,
        as_timed=timed if status == "passed" else None,
        **known,
    )


def _launches() -> Iterator[Launch]:
    for mode in ("parity", "timing", "comm"):
        yield Launch(mode=mode, start_seconds=0.04, setup_seconds=1.4, gap_seconds=2.0, first_step_seconds=8.5)


def _memory(layout: Layout, draw: random.Random) -> Memory:
    ranks = tuple(_rank_memory(rank, layout, draw) for rank in range(layout.world_size))
    modules = {
        name: ModuleMemory(
            peak_allocated_bytes=max(each.peak_allocated_bytes for each in ranks if name in each.modules),
            peak_reserved_bytes=max(each.peak_reserved_bytes for each in ranks if name in each.modules),
        )
        for name in layout.modules
    }
    return Memory(modules=modules, ranks=ranks)


def _module(name: str) -> ModuleTiming:
    seconds = 0.04 if name == "vision" else 0.2
    return ModuleTiming(
        compute_seconds=seconds,
        idle_share=0.61 if name == "vision" else 0.12,
        forward_seconds=seconds * 0.3,
        backward_seconds=seconds * 0.6,
        optimizer_seconds=seconds * 0.1,
    )


def _rank_account(rank: int, layout: Layout, pace: float) -> RankAccountOf:
    """An encoder's own ranks mostly wait; the others mostly compute."""
    hosted = layout.modules_of(rank)
    compute = pace * (0.75 if "language" in hosted else 0.2)
    exposed = pace * 0.08
    return RankAccountOf(
        rank=rank,
        host=f"host-{rank // 8}",
        device=_uuid(rank),
        modules=hosted,
        num_steps=10,
        step_seconds=pace,
        compute_seconds=compute,
        exposed_communication_seconds=exposed,
        idle_seconds=pace - compute - exposed,
        wait_seconds=(pace - compute - exposed) * 0.7,
        compute_seconds_by_module={name: compute / len(hosted) for name in hosted},
    )


def _rank_memory(rank: int, layout: Layout, draw: random.Random) -> RankMemoryOf:
    hosted = layout.modules_of(rank)
    peak = int((10 + (50 if "language" in hosted else 0) + 20 * draw.random()) * GIB)
    return RankMemoryOf(
        rank=rank,
        modules=hosted,
        device_uuid=_uuid(rank),
        peak_allocated_bytes=peak,
        peak_reserved_bytes=peak + GIB,
        device_used_bytes=peak + 4 * GIB,
        parts=MemoryParts(
            parameters_bytes=peak * 2 // 10,
            gradients_bytes=peak * 2 // 10,
            optimizer_bytes=peak * 3 // 10,
            activations_bytes=peak * 2 // 10,
            workspace_bytes=peak // 10,
        ),
    )


def _communication(layout: Layout, pace: float) -> Iterator[Communication]:
    axes = [(name, axis) for name, grid in layout.modules.items() for axis in AXES if getattr(grid, axis) > 1]
    roles = [f"{name}.{axis}" for name, axis in axes]
    for index, role in enumerate([*roles, "bridge.vision->language"]):
        seconds = pace * 0.04 * (index + 1)
        yield Communication(
            role=role,
            collective="all_reduce",
            calls_per_step=24.0,
            bytes_per_step=3.0 * GIB / (index + 1),
            seconds_per_step=seconds,
            transfer_seconds=seconds * 0.7,
            wait_seconds=seconds * 0.3,
            exposed_seconds=seconds * 0.5,
            bus_bytes_per_second=200e9,
        )


def _uuid(rank: int) -> str:
    return f"GPU-{rank:08x}-0000-0000-0000-000000000000"
