"""Second pass over a layout that failed: names the first activation or gradient that differs from the baseline's.

`probes.trace` takes a sketch of every layer's output and of its gradient, for every item of the first step. Two such
traces are compared in the order in which training computes them. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mimo_bench.layout import LANGUAGE

TRACE = "trace.json"
"""File that the first rank of a traced launch leaves next to its record."""

SAME = 1e-3
"""Share of a tensor's norm below which sketches agree. Rounding moves them by a thousandth of it, the mildest known
fault by more than ten times as much."""


class Glimpse(BaseModel):
    """Sketch of one item, a sample or one of its images, at one point of the model."""

    model_config = ConfigDict(frozen=True)

    point: str
    """Module and part: `vision.layer 3`, `vision.output`, `language.input`, ..."""
    depth: int
    """Position of the point in the module's forward pass."""
    direction: Literal["forward", "backward"]
    micro_batch: int
    item: str
    """The sample's id, or `id.index` for an encoder's items."""
    norm: float
    sketch: tuple[float, ...]
    """Random projections, each with the tensor's norm as its root mean square."""
    sums: tuple[float, ...]
    """Random projections of the sum of its rows. Their total over the items stays if rows move between items."""

    @property
    def module(self) -> str:
        """Module of the point."""
        return self.point.partition(".")[0]


class TraceRecord(BaseModel):
    """All glimpses of one layout's first step."""

    model_config = ConfigDict(frozen=True)

    glimpses: tuple[Glimpse, ...]


def add_parts(ranks: Iterable[Sequence[tuple[Glimpse, bool]]]) -> TraceRecord:
    """Merge the glimpses of all ranks into one trace.

    Args:
        ranks: glimpses of each rank, with True for a part that is added to those of other ranks, as of a sequence that
            they share. Of a whole glimpse, ranks bring copies.
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
    """Describe the first difference from the baseline: module, layer, micro-batch and item; or that there is none."""
    expected = {_key(glimpse): glimpse for glimpse in baseline.glimpses}
    scale = _largest_norms(baseline)
    seen = {_key(glimpse): glimpse for glimpse in found.glimpses}
    for glimpse in sorted(baseline.glimpses, key=_order):
        if (mine := seen.get(_key(glimpse))) is None:
            return f"{_point(glimpse)} is missing"
        off = _distance(mine, glimpse) / (scale[glimpse.point, glimpse.direction] or 1.0)
        if not off <= SAME:
            together = [one for one in found.glimpses if _place(one) == _place(mine)]
            return f"{_point(mine)}, {_how(mine, together, expected, off)}"
    return (
        "every activation of the first step and its gradient are the baseline's, so the fault is after the backward "
        "pass: where gradients are reduced, normalised or applied"
    )


def _how(
    mine: Glimpse, together: Sequence[Glimpse], expected: Mapping[tuple[str, str, str], Glimpse], off: float
) -> str:
    """Describe how an item, of those `together` in a micro-batch, differs from the baseline's."""
    theirs = expected[_key(mine)]
    for key, other in expected.items():
        if key[:2] == _key(mine)[:2] and other.item != mine.item and _distance(mine, other) <= SAME * other.norm:
            return f"which equals the baseline's item {other.item}: items are permuted"
    if not math.isfinite(mine.norm):
        return "which is not finite"
    if _has_same_rows(together, [expected[_key(one)] for one in together if _key(one) in expected]):
        return "while the sum over its micro-batch is the baseline's: rows went to other items"
    if mine.norm == 0.0:
        return "which is zero"
    square = sum(one * one for one in theirs.sketch)
    scale = sum(one * other for one, other in zip(mine.sketch, theirs.sketch, strict=True)) / square if square else 0.0
    rest = math.dist(mine.sketch, [scale * one for one in theirs.sketch]) / math.sqrt(len(mine.sketch))
    if rest <= SAME * mine.norm:
        return f"which is {scale:.4g} x the baseline's"
    return f"off by {off:.2g} of its norm"


def _has_same_rows(mine: Sequence[Glimpse], theirs: Sequence[Glimpse]) -> bool:
    """Return True if the items together have the same rows as the baseline's."""
    if not len(mine) == len(theirs) > 1:
        return False
    norms = [math.hypot(*(one.norm for one in some)) for some in (mine, theirs)]
    sums = [[math.fsum(column) for column in zip(*(one.sums for one in some), strict=True)] for some in (mine, theirs)]
    off = max(abs(norms[0] - norms[1]), math.dist(*sums) / math.sqrt(len(sums[0])))
    return off <= SAME * norms[1]


def _add(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _point(glimpse: Glimpse) -> str:
    _, _, where = glimpse.point.partition(".")
    what = "the gradient at the" if glimpse.direction == "backward" else "the"
    place = where if where in ("input", "output", "loss") else f"output of {where}"
    kind = "first activation" if glimpse.direction == "forward" else "all activations agree, and the first gradient"
    return (
        f"{kind} that differs: {what} {place} of {glimpse.module} in micro-batch {glimpse.micro_batch}, "
        f"item {glimpse.item}"
    )


def _order(glimpse: Glimpse) -> tuple[int, int, int, int, tuple[int, ...]]:
    """Return the sort key: activations from encoders to loss, then gradients in reverse, by micro-batch."""
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
