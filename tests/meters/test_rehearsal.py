"""What is trained on before it is timed: batches of a shape that came up in no step before."""

from __future__ import annotations

from mimo_bench.meters.rehearsal import unseen

Shapes = set[tuple[int, ...]]

ONE: Shapes = {(4,)}
TWO: Shapes = {(4,), (5,)}
THREE: Shapes = {(6,)}
NONE: Shapes = {()}


def test_a_shape_is_rehearsed_once() -> None:
    assert unseen([ONE, TWO, ONE, TWO, THREE, THREE], first=1) == [1, 4]


def test_where_all_steps_are_alike_nothing_is_rehearsed() -> None:
    assert unseen([ONE] * 6, first=2) == []


def test_a_shape_that_the_warm_up_had_is_not_rehearsed() -> None:
    assert unseen([TWO, ONE, {(5,)}], first=1) == []


def test_a_rank_without_encoders_asks_for_nothing() -> None:
    assert unseen([NONE] * 3, first=1) == []
