"""What the page's script draws when a layout is opened: where every rank stands, and what its memory holds.

record -> [report]: 200 layouts on 64 ranks have too many ranks to draw them all beforehand, so the page carries their
numbers, four digits each, and draws one layout at a time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from mimo_bench.layout import Grid
from mimo_bench.record.schema import LayoutRecord, Memory, ModuleGrid, RunRecord

GIB = 1024**3

Part = dict[str, Any]
"""What is drawn side by side on every rank: its name, which of the six colours it has, and one number per rank."""


def rank_data(record: RunRecord) -> Markup:
    """The numbers of all ranks as JSON that may stand inside a script element, whatever names it holds."""
    data = {"layouts": [_layout(layout, record) for layout in record.layouts]}
    said = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # Inside a script element only "<" can end or open anything; escaped, the JSON means what it meant.
    return Markup(said.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _layout(layout: LayoutRecord, record: RunRecord) -> dict[str, Any]:
    return {
        "name": layout.name,
        "ranks": layout.world_size,
        "devices": _devices(layout.memory, layout.world_size),
        "modules": [_module(name, grid) for name, grid in layout.modules.items()],
        "memory": _memory(layout.memory, layout.world_size, record) if layout.memory else None,
    }


def _module(name: str, grid: ModuleGrid) -> dict[str, Any]:
    """A module, its first rank, and its place on each of its ranks, `tp0 dp1`; axes of degree one are left out."""
    axes = [axis for axis in ("tp", "dp", "pp") if getattr(grid, axis) > 1]
    arithmetic = Grid(tp=grid.tp, pp=grid.pp, dp=grid.dp, rank_offset=min(grid.ranks))
    places = map(arithmetic.coordinate, arithmetic.ranks)
    at = [" ".join(f"{axis}{getattr(place, axis)}" for axis in axes) for place in places]
    return {"name": name, "first": min(grid.ranks), "at": at}


def _devices(memory: Memory | None, num_ranks: int) -> list[str | None]:
    known = {rank.rank: rank.device_uuid for rank in memory.ranks} if memory else {}
    return [known.get(rank) for rank in range(num_ranks)] if known else []


def _memory(memory: Memory, num_ranks: int, record: RunRecord) -> dict[str, Any]:
    """What every rank's peak holds, in GiB, and the memory of the smallest device."""
    ranks = {rank.rank: rank for rank in memory.ranks}
    known = [ranks.get(rank) for rank in range(num_ranks)]
    allocated = [rank.peak_allocated_bytes if rank else None for rank in known]
    beyond = [rank.peak_reserved_bytes - rank.peak_allocated_bytes if rank else None for rank in known]
    totals = [device.total_bytes for device in record.environment.devices if device.total_bytes is not None]
    return {
        "limit": _digits(min(totals) / GIB) if totals else None,
        "parts": [_part("allocated", 0, allocated), _part("reserved beyond", 3, beyond)],
    }


def _part(name: str, look: int, sizes: Sequence[int | None]) -> Part:
    return {"name": name, "look": look, "values": [None if size is None else _digits(size / GIB) for size in sizes]}


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
