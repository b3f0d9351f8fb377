"""Where a layout first leaves the baseline, in words: by hand-made glimpses of two items at three points."""

from __future__ import annotations

import pytest

from mimo_bench.parity.trace import Glimpse, TraceRecord, add_parts, first_difference

SKETCHES = {"0": (1.0, -1.0, 1.0, 1.0), "1": (2.0, 1.0, -1.0, 0.0)}
POINTS = (("vision.layer 0", 0), ("vision.output", 9), ("language.loss", 9))


def glimpse(point: str, direction: str, item: str, *, scale: float = 1.0, like: str | None = None) -> Glimpse:
    """What item `item` looks like, or `scale` times what `like` does."""
    sketch = tuple(scale * number for number in SKETCHES[like or item])
    return Glimpse(
        point=point,
        depth=dict(POINTS)[point],
        direction="forward" if direction == "forward" else "backward",
        micro_batch=int(item),
        item=item,
        norm=scale * 2.0,
        sketch=sketch,
        sums=sketch[:2],
    )


def trace(*changed: Glimpse, without: str | None = None) -> TraceRecord:
    """Both items at every point, forward and backward, but for what has changed."""
    keys = {(one.point, one.direction, one.item): one for one in changed}
    every = [
        keys.get((point, direction, item), glimpse(point, direction, item))
        for point, _ in POINTS
        for direction in ("forward", "backward")
        for item in SKETCHES
        if point != without
    ]
    return TraceRecord(glimpses=tuple(every))


BASELINE = trace()


def test_equal_traces_put_the_fault_after_the_backward_pass() -> None:
    assert first_difference(trace(), BASELINE).startswith("every activation of the first step and its gradient")


def test_the_first_activation_is_named_whatever_differs_behind_it() -> None:
    changed = (
        glimpse("language.loss", "forward", "0", scale=1.5),
        glimpse("vision.output", "forward", "1", scale=3.0),
        glimpse("vision.output", "backward", "0", scale=2.0),
    )
    # Micro-batch 0 comes first, up to its loss.
    assert first_difference(trace(*changed), BASELINE) == (
        "first activation that differs: the loss of language in micro-batch 0, item 0, which is 1.5 x the baseline's"
    )
    assert first_difference(trace(*changed[1:]), BASELINE) == (
        "first activation that differs: the output of vision in micro-batch 1, item 1, which is 3 x the baseline's"
    )


def test_where_activations_agree_the_gradient_nearest_to_the_loss_is_named() -> None:
    changed = (
        glimpse("vision.layer 0", "backward", "0", scale=2.0),
        glimpse("vision.output", "backward", "0", scale=0.0),
    )
    assert first_difference(trace(*changed), BASELINE) == (
        "all activations agree, and the first gradient that differs: the gradient at the output of vision in "
        "micro-batch 0, item 0, which is zero"
    )


def test_items_that_changed_places_are_told_as_permuted() -> None:
    swapped = trace(
        glimpse("vision.output", "forward", "0", like="1"), glimpse("vision.output", "forward", "1", like="0")
    )
    assert first_difference(swapped, BASELINE).endswith(
        "item 0, which equals the baseline's item 1: items are permuted"
    )


def test_rows_that_went_to_other_items_are_told_where_all_items_together_have_all_of_them() -> None:
    def taken(item: str, norm: float, *sums: float) -> Glimpse:
        odd = (9.0 * norm, 1.0, 0.0, 0.0)
        known = glimpse("vision.output", "forward", item)
        return known.model_copy(update={"micro_batch": 0, "norm": norm, "sketch": odd, "sums": sums})

    # Of the baseline's two, norms are 2 and 2, sums (1, -1) and (2, 1).
    dealt = trace(taken("0", 1.0, 0.0, 0.5), taken("1", 7.0**0.5, 3.0, -0.5))
    assert first_difference(dealt, BASELINE).endswith(
        "item 0, while the sum over its micro-batch is the baseline's: rows went to other items"
    )
    for other in (taken("1", 7.0**0.5, 3.0, 0.0), taken("1", 2.0, 3.0, -0.5)):
        assert "dealt" not in first_difference(trace(taken("0", 1.0, 0.0, 0.5), other), BASELINE)


def test_a_layer_that_never_ran_is_named() -> None:
    assert first_difference(trace(without="vision.layer 0"), BASELINE) == (
        "first activation that differs: the output of layer 0 of vision in micro-batch 0, item 0 is missing"
    )


def test_rounding_is_no_difference() -> None:
    assert first_difference(trace(glimpse("language.loss", "forward", "0", scale=1.00001)), BASELINE).startswith(
        "every"
    )


def test_parts_of_a_sequence_add_up_and_copies_do_not() -> None:
    part = glimpse("language.loss", "forward", "0")
    (whole,) = add_parts([[(part, True)], [(part, True)]]).glimpses
    assert whole.sketch == (2.0, -2.0, 2.0, 2.0)
    assert whole.sums == (2.0, -2.0)
    assert whole.norm == pytest.approx(2.0 * 2.0**0.5)
    (copy,) = add_parts([[(part, False)], [(part, False)]]).glimpses
    assert copy == part
