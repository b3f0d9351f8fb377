"""The second pass over a layout that failed: the first activation or gradient that is not the baseline's, in words.

`probes.trace` takes a sketch of every layer's output, and of the gradient that reaches it, for every item of the first
step; here two such traces are compared in the order in which training computes them. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mimo_bench.layout import LANGUAGE

TRACE = "trace.json"
"""What the first rank of a traced launch leaves beside its record."""

SAME = 1e-3
"""Sketches agree if they differ by less than this share of the tensor's norm: rounding moves them by a thousandth of
that, and the mildest known fault by more than ten times as much."""


class Glimpse(BaseModel):
    """What one item, a sample or an image of it, looked like at one point of the model."""

    model_config = ConfigDict(frozen=True)

    point: str
    """`vision.layer 3`, `vision.output`, `language.input`, ...: the module, and where in it."""
    depth: int
    """The points of a module in the order of the forward pass."""
    direction: Literal["forward", "backward"]
    micro_batch: int
    item: str
    """The sample's id, or `id.index` for an encoder's items."""
    norm: float
    sketch: tuple[float, ...]
    """Random projections, each with the tensor's norm as its root mean square."""
    sums: tuple[float, ...]
    """Random projections of the sum of its rows, which items together keep wherever their rows went."""

    @property
    def module(self) -> str:
        """The module that the point is in."""
        return self.point.partition(".")[0]


class TraceRecord(BaseModel):
    """Every glimpse of one layout's first step."""

    model_config = ConfigDict(frozen=True)

    glimpses: tuple[Glimpse, ...]


def add_parts(ranks: Iterable[Sequence[tuple[Glimpse, bool]]]) -> TraceRecord:
    """One trace from all ranks.

    Args:
        ranks: of each, its glimpses and whether each is a part to be added up, as of a sequence that ranks share; of
            glimpses that are whole, ranks bring copies.
    """
    whole: dict[tuple[str, str, str], Glimpse] = {}
    for glimpse, is_part in (pair for rank in ranks for pair in rank):
        key = _key(glimpse)
        known = whole.get(key)
        if known is None:
            whole[key] = glimpse
        elif is_part:
            added = {
                "sketch": _add(known.sketch, glimpse.sketch),
                "sums": _add(known.sums, glimpse.sums),
                "norm": math.hypot(known.norm, glimpse.norm),
            }
            whole[key] = known.model_copy(update=added)
    return TraceRecord(glimpses=tuple(whole.values()))


def first_difference(found: TraceRecord, baseline: TraceRecord) -> str:
    """Where a layout first leaves the baseline: module, layer, micro-batch and item; or that nothing does."""
    expected = {_key(glimpse): glimpse for glimpse in baseline.glimpses}
    scale = _largest_norms(baseline)
    seen = {_key(glimpse): glimpse for glimpse in found.glimpses}
    for glimpse in sorted(baseline.glimpses, key=_order):
        if (mine := seen.get(_key(glimpse))) is None:
            return f"{_said(glimpse)} never came to be"
        off = _distance(mine, glimpse) / (scale[glimpse.point, glimpse.direction] or 1.0)
        if not off <= SAME:
            together = [one for one in found.glimpses if _place(one) == _place(mine)]
            return f"{_said(mine)}, {_how(mine, together, expected, off)}"
    return (
        "every activation of the first step and every gradient that reaches one is the baseline's, so it goes wrong "
        "behind the backward pass: where gradients are reduced, normalised or applied"
    )


def _how(
    mine: Glimpse, together: Sequence[Glimpse], expected: Mapping[tuple[str, str, str], Glimpse], off: float
) -> str:
    """In which way an item, of those that were `together` in a micro-batch, differs from what the baseline has."""
    theirs = expected[_key(mine)]
    for key, other in expected.items():
        if key[:2] == _key(mine)[:2] and other.item != mine.item and _distance(mine, other) <= SAME * other.norm:
            return f"which holds what the baseline has for item {other.item}: items are permuted"
    if not math.isfinite(mine.norm):
        return "which is not finite"
    if _is_dealt(together, [expected[_key(one)] for one in together if _key(one) in expected]):
        return "while its micro-batch holds the baseline's rows all in all: rows are dealt to other items"
    if mine.norm == 0.0:
        return "which is zero"
    square = sum(one * one for one in theirs.sketch)
    scale = sum(one * other for one, other in zip(mine.sketch, theirs.sketch, strict=True)) / square if square else 0.0
    rest = math.dist(mine.sketch, [scale * one for one in theirs.sketch]) / math.sqrt(len(mine.sketch))
    if rest <= SAME * mine.norm:
        return f"which is {scale:.4g} x the baseline's"
    return f"off by {off:.2g} of its norm"


def _is_dealt(mine: Sequence[Glimpse], theirs: Sequence[Glimpse]) -> bool:
    """Whether items have the same rows all together that the baseline's have."""
    if not len(mine) == len(theirs) > 1:
        return False
    norms = [math.hypot(*(one.norm for one in some)) for some in (mine, theirs)]
    sums = [[math.fsum(column) for column in zip(*(one.sums for one in some), strict=True)] for some in (mine, theirs)]
    off = max(abs(norms[0] - norms[1]), math.dist(*sums) / math.sqrt(len(sums[0])))
    return off <= SAME * norms[1]


def _add(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _said(glimpse: Glimpse) -> str:
    _, _, where = glimpse.point.partition(".")
    what = "the gradient at the" if glimpse.direction == "backward" else "the"
    place = where if where in ("input", "output", "loss") else f"output of {where}"
    kind = "first activation" if glimpse.direction == "forward" else "all activations agree, and the first gradient"
    return (
        f"{kind} that differs: {what} {place} of {glimpse.module} in micro-batch {glimpse.micro_batch}, "
        f"item {glimpse.item}"
    )


def _order(glimpse: Glimpse) -> tuple[int, int, int, int, tuple[int, ...]]:
    """Activations from the encoders to the loss, then gradients the other way; micro-batches one after the other."""
    is_language = int(glimpse.module == LANGUAGE)
    backward = glimpse.direction == "backward"
    sign = -1 if backward else 1
    item = tuple(int(part) for part in glimpse.item.split("."))
    return int(backward), glimpse.micro_batch, sign * is_language, sign * glimpse.depth, item


def _key(glimpse: Glimpse) -> tuple[str, str, str]:
    # Not the micro-batch: a layout may cut the same samples into other ones.
    return glimpse.point, glimpse.direction, glimpse.item


def _place(glimpse: Glimpse) -> tuple[str, str, int]:
    return glimpse.point, glimpse.direction, glimpse.micro_batch


def _largest_norms(trace: TraceRecord) -> dict[tuple[str, str], float]:
    largest: dict[tuple[str, str], float] = {}
    for one in trace.glimpses:
        key = one.point, one.direction
        largest[key] = max(largest.get(key, 0.0), one.norm)
    return largest


def _distance(one: Glimpse, other: Glimpse) -> float:
    return math.dist(one.sketch, other.sketch) / math.sqrt(len(one.sketch))
