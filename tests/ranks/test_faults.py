"""Every known fault is caught by the check that should catch it, and the reason says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from mimo_bench.bench.attempt import Training, launch_together
from mimo_bench.bench.gate.campaign import Campaign, TestBench
from mimo_bench.bench.layout_run import LayoutResult
from mimo_bench.launch import Launcher
from mimo_bench.parity.faults.catalogue import KNOWN, known_faults
from mimo_bench.parity.faults.sites import Site
from mimo_bench.scenario.scenario import Scenario
from tests.ranks import test_companion
from tests.ranks.gate import Gate

SCENARIO = Scenario.model_validate(
    {
        "question": "Is every fault caught?",
        "model": "llava-tiny",
        "global_batch_size": 8,
        "global_micro_batch_size": 4,
        "seq_length": 32,
        "baseline": "colocated",
        "steps": {"parity": 3, "warmup": 1, "timed": 3},
        "layout": [
            {"name": "colocated", "vision": {}, "language": {}},
            {"name": "fan-in", "vision": {"dp": 2}, "language": {"rank_offset": 2}},
            {"name": "fan-out", "vision": {}, "language": {"dp": 2, "rank_offset": 1}},
            {"name": "equal", "vision": {"dp": 2}, "language": {"dp": 2}},
            {
                "name": "sharded-optimizer",
                "vision": {"dp": 2},
                "language": {"rank_offset": 2},
                "settings": {"distributed_optimizer": True},
            },
            {"name": "pipeline", "vision": {}, "language": {"pp": 2, "rank_offset": 1}},
            {"name": "shards", "vision": {"tp": 2}, "language": {"dp": 2}},
            {
                "name": "sequence-parallel",
                "vision": {},
                "language": {"tp": 2, "rank_offset": 1},
                "settings": {"sequence_parallel": True},
            },
            {"name": "encoder-stages", "vision": {"pp": 2}, "language": {"rank_offset": 2}},
            {
                "name": "fused",
                "vision": {"dp": 2},
                "language": {"dp": 2},
                "settings": {
                    "fused_optimizer": True,
                    "fused_loss": True,
                    "fused_gradient_accumulation": True,
                    "overlap_grad_reduce": True,
                },
            },
        ],
    }
)

CAUGHT = [
    ("bridge-gradient-doubled", "equal", "gradients of vision.* are 2 x the baseline's, uniformly"),
    ("bridge-gradient-dropped", "fan-out", "every gradient of vision is zero"),
    (
        "encoder-gradient-scaled-by-dp-ratio",
        "fan-in",
        "gradients of vision.* are 0.5 x the baseline's, uniformly: language dp 1 / vision dp 2",
    ),
    (
        "encoder-gradient-scaled-by-dp-ratio",
        "fan-out",
        "gradients of vision.* are 2 x the baseline's, uniformly: language dp 2 / vision dp 1",
    ),
    ("encoder-gradient-not-normalised", "fan-in", "answer tokens of the global batch"),
    (
        "gradient-of-one-slice-lost",
        "sequence-parallel",
        "linear_proj.weight by 1 of its norm, all in the shard of tensor-parallel rank 1",
    ),
    (
        "gradient-of-one-stage-doubled",
        "pipeline",
        "each 2 x the baseline's, all on pipeline stage 0 of 2",
    ),
    (
        "loss-mask-shifted",
        "fan-out",
        "(language.targets): the loss mask is shifted by -1 in every sample",
    ),
    (
        "micro-batches-averaged",
        "sequence-parallel",
        "gradients of vision.* are 0.5 x the baseline's, uniformly: 1 / 2 micro-batches",
    ),
    ("clipped-by-own-norm", "fan-in", "gradients of another scale after the first step's, as by another clipping"),
    (
        "encoder-epsilon-of-another-optimizer",
        "sharded-optimizer",
        "parameters of vision differ, most vision.",
    ),
    (
        "encoder-learning-rate-doubled",
        "sharded-optimizer",
        "lr of vision is 0.002 instead of 0.001 in step 0; ",
    ),
    (
        "encoder-weights-not-decayed",
        "shards",
        "weight_decay of vision is 0.0 instead of 0.01 in step 0; ",
    ),
    (
        "encoder-fed-other-samples",
        "equal",
        "before the first step: step 0, micro-batch 0: vision.inputs reads samples 4",
    ),
    ("encoder-reads-other-pixels", "fan-out", "first sample 0 of step 0 (vision.inputs)"),
    ("encoder-stages-skipped", "encoder-stages", "gradients of vision are zero, first vision.encoder.vit"),
    ("image-patches-dealt-to-other-samples", "fan-in", "of the gradients of vision differ"),
    (
        "layer-norm-gradients-not-reduced",
        "sequence-parallel",
        "tensor-parallel copies of language.decoder.layers.0.input_layernorm.weight hold different gradients",
    ),
    ("local-token-count", "fan-out", "data-parallel replicas of language."),
    ("replica-reduction-skipped", "fan-in", "data-parallel replicas of vision."),
    ("vision-layer-skipped", "fan-out", "layers.3."),
    ("weights-drawn-by-shard", "shards", "before the first step: "),
    ("decay-lost-in-the-last-step", "equal", "weight_decay of vision is 0.0 instead of 0.01 in step 2"),
    ("encoder-betas-swapped", "equal", "betas of vision is (0.95, 0.9) instead of (0.9, 0.95) in step 0; "),
    ("encoder-rate-off-by-a-thousandth", "pipeline", "lr of vision is 0.001001 instead of 0.001 in step 0"),
    ("evaluated-on-training-samples", "equal", " held-out answer tokens are scored instead of "),
    ("every-held-out-answer-counted-right", "fan-in", " held-out answer tokens are right instead of "),
    ("held-out-loss-off-by-a-thousandth", "pipeline", "the held-out loss is "),
    ("items-counted-twice", "fan-out", "step 0 reports 16 items of vision, and loaders read 8"),
    ("last-micro-batch-not-evaluated", "shards", " held-out answer tokens are scored instead of "),
    (
        "norms-and-biases-not-decayed",
        "equal",
        "updates of language.* differ along the weights themselves, most language.",
    ),
    (
        "projector-gradient-flipped-in-the-last-step",
        "fan-in",
        "updates by 3 steps of 4 of 53 parameters of vision differ, most vision.projector.",
    ),
    (
        "projector-steps-half-as-far-again",
        "shards",
        "moved further than AdamW can at these rates, most vision.projector.",
    ),
    (
        "projector-stops-learning-in-the-last-step",
        "sharded-optimizer",
        "updates by 3 steps of 4 of 53 parameters of vision differ, most vision.projector.",
    ),
    (
        "replica-drifts-in-the-last-step",
        "equal",
        "data-parallel replicas of vision.projector.linear_fc1.weight hold different weights on ranks 0 and 1",
    ),
    (
        "rows-without-a-gradient-grow",
        "sharded-optimizer",
        "weights without any gradient moved otherwise than by their decay in 1 parameters of language",
    ),
    (
        "rows-without-a-gradient-not-decayed",
        "sequence-parallel",
        "weights without any gradient moved otherwise than by their decay in 1 parameters of language",
    ),
    (
        "tensor-parallel-copy-drifts-in-the-last-step",
        "sequence-parallel",
        "tensor-parallel copies of language.decoder.layers.0.input_layernorm.weight hold different weights",
    ),
    ("token-pairs-counted-twice", "equal", " token pairs, and loaders read "),
    ("tokens-counted-twice", "sequence-parallel", " tokens, and loaders read "),
    ("weights-of-another-seed", "equal", "84 parameters start from other weights than the baseline's"),
]


PLACES = {
    ("vision-layer-skipped", "fan-out"): (
        "first activation that differs: the output of layer 3 of vision in micro-batch 0"
    ),
    ("bridge-gradient-doubled", "equal"): (
        "first gradient that differs: the gradient at the output of vision in micro-batch 0, item 0.0, which is 2"
    ),
    ("image-patches-dealt-to-other-samples", "fan-in"): (
        "the output of vision in micro-batch 0, item 0.0, while the sum over its micro-batch is the baseline's"
    ),
    ("micro-batches-averaged", "sequence-parallel"): "so the fault is after the backward pass",
}
"""Part of the second pass's reason for some of them."""


@pytest.fixture(scope="module")
def gate(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(launcher, SCENARIO, tmp_path_factory.mktemp("faults"))


def judge(gate: Gate, fault: str, layout: str) -> LayoutResult:
    share_launch(gate, layout)
    return gate.judge(layout, known_faults()[fault], second_pass=(fault, layout) in PLACES)


@cache
def share_launch(gate: Gate, layout: str) -> None:
    """Train a layout with all of its faults of the table in one launch; what cannot share one is launched alone."""
    assert gate.baseline.finished
    faults = [fault for fault, place, _ in CAUGHT if place == layout and not KNOWN[fault].alone]
    trainings = [Training(case=gate.case(layout), mode="parity", fault=known_faults()[fault]) for fault in faults]
    if trainings:
        launch_together([(gate.attempts, training) for training in trainings])


@pytest.mark.parametrize("layout", [name for name in SCENARIO.names if name != SCENARIO.baseline])
def test_a_layout_without_a_fault_passes(gate: Gate, layout: str) -> None:
    account = gate.judge(layout)
    assert (account.status, account.reason.split(":")[0]) == ("passed", "3 steps agree")


@pytest.mark.parametrize(("fault", "layout", "words"), CAUGHT)
def test_a_fault_is_caught_and_the_reason_says_what_it_is(gate: Gate, fault: str, layout: str, words: str) -> None:
    account = judge(gate, fault, layout)
    assert account.status == "parity_failed"
    assert words in account.reason
    assert account.parity is not None
    assert account.parity.failed_check == KNOWN[fault].caught_by


AS_TIMED = [
    ("fused-accumulation-loses-a-matrix", "self_attention.linear_proj.weight by 1 of its norm"),
    (
        "fused-loss-flips-a-gradient",
        "self_attention.linear_qkv.weight by 2 of its norm, bound 0.0001, each -1 x the baseline's",
    ),
    ("fused-optimizer-idles-from-the-middle-on", "of vision"),
    ("overlapped-reduction-skipped", "data-parallel replicas of vision."),
    ("replica-drifts-under-the-fused-optimizer", "data-parallel replicas of vision.projector.linear_fc1.weight hold"),
]


@pytest.fixture(scope="module")
def timed(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBench]:
    campaign = Campaign(directory=tmp_path_factory.mktemp("timed"), device_kind="cpu")
    with campaign.bench(launcher, SCENARIO) as bench:
        baseline = bench.judge(SCENARIO.baseline, modes=("parity", "timing"))
        assert baseline.status == "passed", baseline.reason
        yield bench


def test_fused_parts_pass_as_timed(timed: TestBench) -> None:
    result = timed.judge("fused", modes=("parity", "timing"))
    assert result.status == "passed", result.reason


@pytest.mark.parametrize(("fault", "words"), AS_TIMED)
def test_a_fault_of_what_runs_only_as_timed_passes_parity_and_is_caught_then(
    timed: TestBench, fault: str, words: str
) -> None:
    result = timed.judge("fused", known_faults()[fault], modes=KNOWN[fault].modes)
    assert result.parity is not None
    assert (result.parity.failed_check, result.parity.loss_rel_max is not None) == ("as_timed", True)
    assert result.reason.startswith("as timed, ")
    assert words in result.reason


SITES = {name: Site.of(SCENARIO, name) for name in SCENARIO.names if name != SCENARIO.baseline}
SHOWN = [
    (fault, layout)
    for fault, known in KNOWN.items()
    for layout, site in SITES.items()
    if known.modes == ("parity",) and known.caught_by != "timeout" and known.shows_in(site)
]
"""Each fault in each layout that the selftest may plant it in; one that hangs is planted in test_run.py."""


@pytest.mark.nightly
@pytest.mark.parametrize(("fault", "layout"), SHOWN)
def test_a_fault_is_caught_in_every_layout_that_shows_it(gate: Gate, fault: str, layout: str) -> None:
    account = judge(gate, fault, layout)
    found = account.parity.failed_check if account.parity is not None else None
    assert (found or account.status) == KNOWN[fault].caught_by, account.reason


def test_every_fault_of_ours_that_parity_can_judge_is_in_a_table_of_what_its_reason_says() -> None:
    ends_the_layout = {"encoder-rests-without-images", "exhaust-memory", "hang-rank", "kill-rank"}
    assert {fault for fault, _, _ in (*CAUGHT, *test_companion.CAUGHT)} == (
        set(KNOWN) - ends_the_layout - {fault for fault, _ in AS_TIMED}
    )


def test_what_a_wrong_gradient_hides_in_the_loss_shows_in_the_gradient(gate: Gate) -> None:
    parity = judge(gate, "encoder-gradient-scaled-by-dp-ratio", "fan-in").parity
    assert parity is not None
    assert parity.worst_gradient is not None
    assert parity.worst_gradient.rel == pytest.approx(0.5, rel=1e-3)
    # The loss of the second step, after one update with the wrong gradient, differs by less than a hundredth of that.
    assert parity.loss_rel_max is not None
    assert parity.loss_rel_max < 5e-3


CLOCKS = {"started_at", "first_step_at", "first_step_seconds", "last_step_at", "phases", "pid"}
"""Fields of a rank's record that no two launches share."""


def test_trainings_that_share_a_launch_leave_the_records_of_launches_of_their_own(gate: Gate) -> None:
    faults = ["weights-drawn-by-shard", "vision-layer-skipped", "encoder-weights-not-decayed", None]
    trainings = [
        Training(case=gate.case("shards"), mode="parity", fault=None if fault is None else known_faults()[fault])
        for fault in faults
    ]
    assert gate.baseline.finished
    alone = [gate.attempts.run(one.case, one.mode, fault=one.fault) for one in trainings]
    assert launch_together([(gate.attempts, one) for one in trainings])
    shared = [gate.attempts.run(one.case, one.mode, fault=one.fault) for one in trainings]
    # To the last bit: losses, norms, every gradient, moment and update. The last one shows that all was undone.
    for one, other in zip(alone, shared, strict=True):
        assert len(one.ranks) == 2
        assert [rank.model_dump(exclude=CLOCKS) for rank in one.ranks] == [
            rank.model_dump(exclude=CLOCKS) for rank in other.ranks
        ]
    # The same processes.
    assert len({result.ranks[0].pid for result in shared}) == 1


def test_a_training_that_ends_a_shared_launch_leaves_the_others_to_launches_of_their_own(gate: Gate) -> None:
    trainings = [
        Training(case=gate.case("fan-in"), mode="parity", fault=known_faults()[fault])
        for fault in ("vision-layer-skipped", "kill-rank")
    ]
    assert gate.baseline.finished
    assert not launch_together([(gate.attempts, one) for one in trainings])
    skipped, killed = (gate.attempts.run(one.case, one.mode, fault=one.fault) for one in trainings)
    assert (skipped.finished, killed.outcome.ended) == (True, "crashed")


@pytest.mark.parametrize(("fault", "layout"), PLACES)
def test_a_second_pass_names_what_differs_first(gate: Gate, fault: str, layout: str) -> None:
    parity = judge(gate, fault, layout).parity
    assert parity is not None
    assert parity.first_difference is not None
    assert PLACES[fault, layout] in parity.first_difference
