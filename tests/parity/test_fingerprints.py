"""What differs before the first step is found, and named by parameter, sample and step."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from mimo_bench.parity.fingerprints import (
    Fingerprint,
    Mismatch,
    RankFingerprint,
    SampleSeen,
    compare_fingerprints,
    merge,
)

WEIGHTS = {"language.a": "00", "vision.b": "11"}


def seen(side: str, *sample_ids: int, step: int = 0, micro_batch: int = 0, content: str = "") -> list[SampleSeen]:
    """Samples of one micro-batch; each has its id for content unless another is given."""
    return [
        SampleSeen(
            step=step, micro_batch=micro_batch, side=side, sample_id=sample_id, digest=content or f"{side} {sample_id}"
        )
        for sample_id in sample_ids
    ]


def rank(*samples: Iterable[SampleSeen], weights: dict[str, str] = WEIGHTS) -> RankFingerprint:
    return RankFingerprint(weights=weights, samples=tuple(one for some in samples for one in some))


def agreed(*ranks: RankFingerprint) -> Fingerprint:
    merged = merge(ranks)
    assert isinstance(merged, Fingerprint), merged
    return merged


def mismatch(*ranks: RankFingerprint) -> Mismatch:
    merged = merge(ranks)
    assert isinstance(merged, Mismatch), merged
    return merged


BASELINE = agreed(
    rank(
        seen("vision.inputs", 0, 1), seen("language.inputs", 0, 1), seen("language.targets", 0, 1),
        seen("vision.inputs", 2, 3, micro_batch=1), seen("language.inputs", 2, 3, micro_batch=1),
        seen("language.targets", 2, 3, micro_batch=1),
    )
)  # fmt: skip


# One layout


def test_ranks_that_agree_become_one_fingerprint() -> None:
    encoder = rank(seen("vision.inputs", 0, 1), weights={"vision.b": "11"})
    language = [rank(seen("language.inputs", sample), weights={"language.a": "00"}) for sample in (0, 1)]
    merged = agreed(encoder, *language)
    assert merged.weights == {"language.a": "00", "vision.b": "11"}
    assert merged.samples == {
        "0/vision.inputs/0": "vision.inputs 0",
        "0/vision.inputs/1": "vision.inputs 1",
        "0/language.inputs/0": "language.inputs 0",
        "0/language.inputs/1": "language.inputs 1",
    }


def test_replicas_with_different_weights_are_found_and_the_parameter_is_named() -> None:
    found = mismatch(rank(), rank(weights={**WEIGHTS, "vision.b": "12"}))
    assert found.reason == "replicas of vision.b start from different weights"
    assert (found.weights_match, found.samples_match) == (False, True)


def test_modules_that_read_different_samples_in_one_micro_batch_are_found() -> None:
    found = mismatch(
        rank(seen("vision.inputs", 0, 1, 4, step=2, micro_batch=3)),
        rank(seen("language.inputs", 0, 1, 5, 6, step=2, micro_batch=3)),
    )
    assert found.reason == "step 2, micro-batch 3: vision.inputs reads samples 4 and language.inputs reads 5, 6"
    assert (found.weights_match, found.samples_match) == (True, False)


def test_the_same_samples_in_the_other_micro_batch_are_not_the_same_training() -> None:
    encoder = rank(seen("vision.inputs", 0, micro_batch=0), seen("vision.inputs", 1, micro_batch=1))
    language = rank(seen("language.inputs", 1, micro_batch=0), seen("language.inputs", 0, micro_batch=1))
    assert mismatch(encoder, language).reason.startswith("step 0, micro-batch 0: vision.inputs reads samples 0 and")


def test_a_module_that_reads_too_little_is_found() -> None:
    found = mismatch(rank(seen("vision.inputs", 0)), rank(seen("language.inputs", *range(6))))
    assert found.reason == (
        "step 0, micro-batch 0: vision.inputs reads samples none more and language.inputs reads 1, 2, 3, 4, ..."
    )


def test_one_sample_with_two_contents_is_found() -> None:
    found = mismatch(
        rank(seen("language.inputs", 7, step=4)), rank(seen("language.inputs", 7, step=4, content="others"))
    )
    assert found.reason == "ranks 0 and 1 read other language.inputs of sample 7 in step 4"
    assert (found.weights_match, found.samples_match) == (True, False)


def test_a_rank_without_any_sample_contradicts_nobody() -> None:
    assert agreed(rank(seen("language.inputs", 0)), rank()).samples == {"0/language.inputs/0": "language.inputs 0"}


# Held against the baseline


def test_equal_fingerprints_do_not_differ() -> None:
    assert compare_fingerprints(BASELINE, BASELINE) is None


def test_samples_grouped_into_other_micro_batches_are_the_same_global_batch() -> None:
    sides = ("vision.inputs", "language.inputs", "language.targets")
    regrouped = agreed(*(rank(seen(side, sample, micro_batch=sample)) for sample in range(4) for side in sides))
    assert compare_fingerprints(regrouped, BASELINE) is None


def test_other_weights_are_counted_and_the_first_is_named() -> None:
    found = compare_fingerprints(
        BASELINE.model_copy(update={"weights": {"language.a": "09", "vision.b": "19"}}), BASELINE
    )
    assert found is not None
    assert found.reason == "2 parameters start from other weights than the baseline's, first language.a"
    assert (found.weights_match, found.samples_match) == (False, True)


@pytest.mark.parametrize("weights", [{"language.a": "00"}, {**WEIGHTS, "vision.c": "22"}], ids=["fewer", "more"])
def test_a_parameter_that_only_one_side_has_differs(weights: dict[str, str]) -> None:
    found = compare_fingerprints(BASELINE.model_copy(update={"weights": weights}), BASELINE)
    assert found is not None
    assert found.reason.startswith("1 parameters start from other weights than the baseline's, first vision.")


def test_other_targets_differ_though_all_inputs_are_equal() -> None:
    samples = {**BASELINE.samples, "0/language.targets/2": "all positions scored"}
    found = compare_fingerprints(BASELINE.model_copy(update={"samples": samples}), BASELINE)
    assert found is not None
    assert found.reason == "1 samples differ from the baseline's, first sample 2 of step 0 (language.targets)"
    assert (found.weights_match, found.samples_match) == (True, False)


def test_the_first_sample_is_the_first_by_number() -> None:
    samples = {f"{step}/vision.inputs/{sample}": "ours" for step, sample in ((10, 80), (2, 17), (2, 9))}
    found = compare_fingerprints(
        Fingerprint(weights={}, samples=samples), Fingerprint(weights={}, samples=dict.fromkeys(samples, "theirs"))
    )
    assert found is not None
    assert found.reason == "3 samples differ from the baseline's, first sample 9 of step 2 (vision.inputs)"


def test_weights_and_samples_that_both_differ_are_both_reported() -> None:
    found = compare_fingerprints(Fingerprint(weights={}, samples={}), BASELINE)
    assert found is not None
    assert found.reason == (
        "2 parameters start from other weights than the baseline's, first language.a; "
        "12 samples differ from the baseline's, first sample 0 of step 0 (language.inputs)"
    )
    assert (found.weights_match, found.samples_match) == (False, False)
