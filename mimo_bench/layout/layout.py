"""A grid for every module of a model; the layout tiles its world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from mimo_bench.layout import limits
from mimo_bench.layout.grid import Grid
from mimo_bench.util import LayoutError

LANGUAGE = "language"
"""The language module's key everywhere; the name is megatron-core's."""

Placement = Literal["colocated", "disjoint"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A grid for every module. A layout in hand tiles its world and can be trained by megatron-core 0.19."""

    modules: Mapping[str, Grid]

    def __post_init__(self) -> None:
        if LANGUAGE not in self.modules:
            raise LayoutError(f"no {LANGUAGE!r} module; every layout places the language model")
        self._refuse_partial_overlap()
        self._refuse_gaps()
        limits.check_layout(self)

    @property
    def language(self) -> Grid:
        """The grid of the language model, which owns the loss."""
        return self.modules[LANGUAGE]

    @property
    def encoders(self) -> dict[str, Grid]:
        """The grids of every module but the language model."""
        return {name: grid for name, grid in self.modules.items() if name != LANGUAGE}

    @property
    def world_size(self) -> int:
        """Number of ranks that the layout needs."""
        return max(grid.ranks.stop for grid in self.modules.values())

    @property
    def placement(self) -> Placement:
        """`colocated` when every module spans the same ranks, otherwise `disjoint`."""
        return "colocated" if len({grid.ranks for grid in self.modules.values()}) == 1 else "disjoint"

    def modules_of(self, rank: int) -> tuple[str, ...]:
        """The modules that global `rank` hosts, in the order of the layout."""
        return tuple(name for name, grid in self.modules.items() if rank in grid.ranks)

    def _refuse_partial_overlap(self) -> None:
        for (name, grid), (other_name, other) in combinations(self.modules.items(), 2):
            # Ends, not sets of ranks: this runs for every pair of every layout that `check` reads.
            share = max(grid.rank_offset, other.rank_offset) < min(grid.ranks.stop, other.ranks.stop)
            if share and grid.ranks != other.ranks:
                # The one that begins later moves behind the other; of two that begin together, the second.
                later, earlier = (name, other) if grid.rank_offset > other.rank_offset else (other_name, grid)
                raise LayoutError(
                    f"{name} on {limits.span(grid.ranks)} and {other_name} on {limits.span(other.ranks)} overlap "
                    f"in part; set {later}.rank_offset = {earlier.ranks.stop}, or give both the same ranks"
                )

    def _refuse_gaps(self) -> None:
        next_rank = 0
        for grid in sorted(self.modules.values(), key=lambda grid: grid.rank_offset):
            if grid.rank_offset > next_rank:
                # Colocated modules move together.
                moved = " = ".join(
                    f"{name}.rank_offset" for name, other in self.modules.items() if other.ranks == grid.ranks
                )
                missing = limits.span(range(next_rank, grid.rank_offset))
                raise LayoutError(
                    f"{moved} = {grid.rank_offset}: no module uses {missing}; use rank_offset = {next_rank}"
                )
            next_rank = grid.ranks.stop
