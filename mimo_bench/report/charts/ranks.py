"""Drawings of an opened layout by the page's script: the place, step and memory of every rank.

200 layouts on 64 ranks have too many ranks to draw them all beforehand, so the page carries their
numbers, four digits each, and draws one layout at a time. Of still more ranks it carries those of some layouts only.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from typing import Any

from markupsafe import Markup

from mimo_bench.layout import Grid
from mimo_bench.record import Account, LayoutRecord, Memory, MemoryParts, ModuleGrid, RankMemoryOf, RunRecord
from mimo_bench.report import step_parts

GIB = 1024**3

Part = dict[str, Any]
"""What is drawn side by side on every rank: its name, which of the six colours it has, and one number per rank."""


def rank_data(record: RunRecord, drawn: Container[str]) -> Markup:
    """The numbers of the ranks of all layouts `drawn`, null for others; JSON that may stand inside a script element."""
    data = {"layouts": [_layout(layout, record) if layout.name in drawn else None for layout in record.layouts]}
    said = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # Inside a script element only "<" can end or open anything; escaped, the JSON means what it meant.
    return Markup(said.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _layout(layout: LayoutRecord, record: RunRecord) -> dict[str, Any]:
    return {
        "name": layout.name,
        "ranks": layout.world_size,
        "devices": _devices(layout),
        "modules": [_module(name, grid) for name, grid in layout.modules.items()],
        "time": _time(layout.account, layout.world_size) if layout.account else None,
        "memory": _memory(layout.memory, layout.world_size, record) if layout.memory else None,
    }


def _module(name: str, grid: ModuleGrid) -> dict[str, Any]:
    """A module, its first rank, and its place on each of its ranks, `tp0 dp1`; axes of degree one are left out."""
    axes = [axis for axis in ("tp", "dp", "pp", "ep") if getattr(grid, axis) > 1]
    arithmetic = Grid(tp=grid.tp, pp=grid.pp, dp=grid.dp, ep=grid.ep, rank_offset=min(grid.ranks))
    places = map(arithmetic.coordinate, arithmetic.ranks)
    at = [" ".join(f"{axis}{getattr(place, axis)}" for axis in axes) for place in places]
    return {"name": name, "first": min(grid.ranks), "at": at}


def _devices(layout: LayoutRecord) -> list[str | None]:
    """Return host and device of each rank, as far as they are known; empty if none is."""
    known = {rank.rank: rank.device_uuid for rank in layout.memory.ranks} if layout.memory else {}
    known |= {rank.rank: f"{rank.host}, {rank.device}" for rank in layout.account.ranks} if layout.account else {}
    return [known.get(rank) for rank in range(layout.world_size)] if known else []


def _time(account: Account, num_ranks: int) -> dict[str, Any]:
    """Return the parts of every rank's step, in milliseconds."""
    known = {rank.rank: step_parts.of_rank(rank) for rank in account.ranks}
    columns = zip(*(known.get(rank, (None,) * len(step_parts.RANK_PARTS)) for rank in range(num_ranks)), strict=True)
    return {
        "parts": [
            _part(name, step_parts.LOOKS[name], [None if value is None else value * 1e3 for value in values])
            for name, values in zip(step_parts.RANK_PARTS, columns, strict=True)
        ]
    }


def _memory(memory: Memory, num_ranks: int, record: RunRecord) -> dict[str, Any]:
    """Return the parts of every rank's peak, in GiB, and the memory of the smallest device."""
    ranks = {rank.rank: rank for rank in memory.ranks}
    known = [ranks.get(rank) for rank in range(num_ranks)]
    beyond = [rank.peak_reserved_bytes - rank.peak_allocated_bytes if rank else None for rank in known]
    totals = [device.total_bytes for device in record.environment.devices if device.total_bytes is not None]
    return {
        "limit": _digits(min(totals) / GIB) if totals else None,
        "parts": [*_allocated(known), _part("reserved beyond", 3, [_gib(each) for each in beyond])],
    }


def _allocated(ranks: Sequence[RankMemoryOf | None]) -> Iterator[Part]:
    """Yield the allocated memory: by its use if every rank knows it, otherwise as one part."""
    if any(rank is not None and rank.parts is None for rank in ranks):
        yield _part("allocated", 0, [_gib(rank.peak_allocated_bytes) if rank else None for rank in ranks])
        return
    for look, field in zip((0, 1, 2, 4, 5), MemoryParts.model_fields, strict=True):
        sizes = [getattr(rank.parts, field) if rank else None for rank in ranks]
        yield _part(field.removesuffix("_bytes"), look, [_gib(size) for size in sizes])


def _part(name: str, look: int, values: Sequence[float | None]) -> Part:
    return {"name": name, "look": look, "values": [None if value is None else _digits(value) for value in values]}


def _gib(size: int | None) -> float | None:
    return None if size is None else size / GIB


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
