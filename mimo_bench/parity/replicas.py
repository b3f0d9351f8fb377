"""Which ranks hold different copies of what should be one tensor, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mimo_bench.layout import Layout

_EXPERTS = ".experts."
"""Stands in the canonical names of experts' parameters, and of no others."""


def diverged(digests: Sequence[Mapping[str, str]], layout: Layout, *, what: str) -> str | None:
    """The parameters whose digests differ between two ranks; None if all that hold one agree.

    Args:
        digests: by canonical parameter, one mapping for each rank.
        layout: says what the ranks are to each other.
        what: is held: gradients, say.
    """
    first: dict[str, tuple[int, str]] = {}
    wrong: dict[str, tuple[int, int]] = {}
    for rank, held in enumerate(digests):
        for name, digest in held.items():
            earlier, expected = first.setdefault(name, (rank, digest))
            if digest != expected:
                wrong.setdefault(name, (earlier, rank))
    if not wrong:
        return None
    name, (one, other) = next(iter(wrong.items()))
    kind = "replicas" if _EXPERTS in name else _kind(layout, name.partition(".")[0], one, other)
    more = f", and of {len(wrong) - 1} more parameters" if len(wrong) > 1 else ""
    return f"{kind} of {name} hold different {what} on ranks {one} and {other}{more}"


def _kind(layout: Layout, module: str, one: int, other: int) -> str:
    here, there = (layout.modules[module].coordinate(rank) for rank in (one, other))
    if here.dp != there.dp:
        return "data-parallel replicas"
    return "tensor-parallel copies" if here.tp != there.tp else "copies on the first and the last stage"
