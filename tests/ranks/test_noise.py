"""In bf16 the measured band tells a correct change of layout from a wrong gradient, which the loss alone does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimo_bench.bench.attempt import Attempts
from mimo_bench.launch import Launcher
from mimo_bench.parity.tolerance import Variant, rounded_variants
from mimo_bench.parity.verdict import TimedBounds, judge_as_timed, judge_baseline_as_timed
from mimo_bench.record import AsTimed
from mimo_bench.record.merge import Trained, merge_training
from mimo_bench.scenario.scenario import Scenario

NUM_STEPS = 3

SCENARIO = Scenario.model_validate(
    {
        "question": "Does bf16 hide a quarter of a gradient?",
        "model": "llava-tiny",
        "global_batch_size": 8,
        "global_micro_batch_size": 4,
        "seq_length": 32,
        "precision": "bf16",
        "baseline": "colocated-dp2",
        "steps": {"parity": NUM_STEPS, "warmup": 1, "timed": 2},
        "layout": [
            {"name": "colocated-dp2", "vision": {"dp": 2}, "language": {"dp": 2}},
            {"name": "vision-dp2--language-tp2", "vision": {"dp": 2}, "language": {"tp": 2, "rank_offset": 2}},
        ],
    }
)

QUARTERED = "tests.ranks.planted:quarter_encoder_gradient"


@pytest.fixture(scope="module")
def attempts(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Attempts:
    SCENARIO.check()
    directory: Path = tmp_path_factory.mktemp("noise")
    return Attempts(launcher, scenario=SCENARIO, directory=directory, device_kind="cpu", hang_seconds=60)


def train(attempts: Attempts, name: str, *, fault: str | None = None, variant: Variant | None = None) -> Trained:
    attempt = attempts.run(SCENARIO.case(name), "timing", fault=fault, variant=variant)
    assert attempt.finished, attempt.outcome.reason
    return merge_training(attempt.ranks, num_parity_steps=NUM_STEPS)


@pytest.fixture(scope="module")
def baseline(attempts: Attempts) -> tuple[Trained, AsTimed, TimedBounds]:
    trained = train(attempts, SCENARIO.baseline)
    variants = {
        variant.name: train(attempts, SCENARIO.baseline, variant=variant) for variant in rounded_variants(SCENARIO)
    }
    assert list(variants) == ["jitter", "micro-batches", "tensor-parallel"]
    judged = judge_baseline_as_timed(trained, variants, precision="bf16", num_required=NUM_STEPS)
    assert judged.band is not None, judged.reason
    return trained, judged, TimedBounds.of(judged.band, variants.values(), "bf16")


def test_tensor_parallelism_passes_and_a_quarter_of_the_encoders_gradient_fails(
    attempts: Attempts, baseline: tuple[Trained, AsTimed, TimedBounds]
) -> None:
    reference, measured, bounds = baseline
    assert measured.band is not None, measured.reason

    def judge(fault: str | None) -> AsTimed:
        trained = train(attempts, "vision-dp2--language-tp2", fault=fault)
        return judge_as_timed(trained, reference, bounds)

    sound, wrong = judge(None), judge(QUARTERED)
    print(json.dumps([each.model_dump(mode="json") for each in (measured, sound, wrong)], indent=1))
    assert sound.verdict == "passed", sound.reason
    assert wrong.verdict == "failed"
    assert wrong.reason == "as timed, gradients of the first step of vision.* are about 0.25 x the baseline's"
    # The loss does not show it: it lies within the band, as it does for the layout without the fault.
    assert wrong.loss_rel_max is not None
    assert wrong.loss_rel_max <= measured.band.loss_rel
