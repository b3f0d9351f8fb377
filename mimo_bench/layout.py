"""Which module sits on which ranks. Arithmetic only: no torch, no processes.

scenario -> [layout] -> trainer -> meters -> record -> parity -> report

A *grid* gives one module its parallel degrees over a contiguous span of ranks; a *layout* gives every
module of a model a grid. What megatron-core 0.19 cannot train is refused here, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from mimo_bench.errors import LayoutError

LANGUAGE = "language"
"""The language module's key everywhere; the name is megatron-core's."""

Placement = Literal["colocated", "disjoint"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Coordinate:
    """Where one rank stands inside a grid: its index along each axis."""

    tp: int
    dp: int
    pp: int
    ep: int = 0
    """Which part of the experts it holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """One module's parallel degrees over a contiguous span of ranks; tp varies fastest, then dp, then pp."""

    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    """Consecutive ranks of a stage that together hold every expert once; an expert is whole on its rank."""
    rank_offset: int = 0
    """First global rank of the span; the name is megatron-core's."""

    def __post_init__(self) -> None:
        for axis in ("tp", "cp", "pp", "dp", "ep"):
            if (degree := getattr(self, axis)) < 1:
                raise LayoutError(f"{axis} = {degree}: a parallel degree is at least 1")
        if self.rank_offset < 0:
            raise LayoutError(f"rank_offset = {self.rank_offset}: the first rank is 0")
        if self.cp != 1:
            raise LayoutError(
                f"cp = {self.cp}: megatron-core 0.19 has no context parallelism across the bridge; use cp = 1"
            )
        if (ranks := self.tp * self.dp) % self.ep:
            raise LayoutError(
                f"ep = {self.ep}: experts are dealt out over the ranks of a stage; use a divisor of tp * dp = {ranks}"
            )

    @property
    def size(self) -> int:
        """How many ranks the span holds."""
        return self.tp * self.cp * self.pp * self.dp

    @property
    def expert_dp(self) -> int:
        """How many ranks hold the same expert."""
        return self.tp * self.dp // self.ep

    @property
    def ranks(self) -> range:
        """The global ranks of the span."""
        return range(self.rank_offset, self.rank_offset + self.size)

    def coordinate(self, rank: int) -> Coordinate:
        """Where a global `rank` of this span stands on the axes."""
        assert rank in self.ranks, f"rank {rank} is not in {self.ranks}"
        inside = rank - self.rank_offset
        return Coordinate(
            tp=inside % self.tp,
            dp=inside // self.tp % self.dp,
            pp=inside // (self.tp * self.dp),
            ep=inside % self.ep,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A grid for every module. A layout in hand tiles its world and can be trained by megatron-core 0.19."""

    modules: Mapping[str, Grid]

    def __post_init__(self) -> None:
        if LANGUAGE not in self.modules:
            raise LayoutError(f"no {LANGUAGE!r} module; every layout places the language model")
        self._refuse_partial_overlap()
        self._refuse_gaps()
        self._refuse_what_megatron_core_lacks()

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
        """How many ranks the layout needs."""
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
                    f"{name} on {_span(grid.ranks)} and {other_name} on {_span(other.ranks)} overlap in part; "
                    f"set {later}.rank_offset = {earlier.ranks.stop}, or give both the same ranks"
                )

    def _refuse_gaps(self) -> None:
        next_rank = 0
        for grid in sorted(self.modules.values(), key=lambda grid: grid.rank_offset):
            if grid.rank_offset > next_rank:
                # Colocated modules move together.
                moved = " = ".join(
                    f"{name}.rank_offset" for name, other in self.modules.items() if other.ranks == grid.ranks
                )
                missing = _span(range(next_rank, grid.rank_offset))
                raise LayoutError(
                    f"{moved} = {grid.rank_offset}: no module uses {missing}; use rank_offset = {next_rank}"
                )
            next_rank = grid.ranks.stop

    def _refuse_what_megatron_core_lacks(self) -> None:
        for name, grid in self.encoders.items():
            if grid.ep > 1:
                raise LayoutError(f"{name}.ep = {grid.ep}: encoders have no experts to deal out; use {name}.ep = 1")
            if grid.dp % self.language.dp and self.language.dp % grid.dp:
                raise LayoutError(
                    f"{name}.dp = {grid.dp} and language.dp = {self.language.dp}: "
                    "the bridge splits or joins whole replicas; let one dp divide the other"
                )
            if grid.ranks == self.language.ranks and self.placement == "disjoint":
                apart = next(other for other, its in self.encoders.items() if its.ranks != grid.ranks)
                raise LayoutError(
                    f"{name} shares {_span(grid.ranks)} with the language model while {apart} is elsewhere: between "
                    "spans, a rank of megatron-core 0.19 runs encoders or the language model, never both; "
                    f"give {name} ranks of its own, those of {apart} for example, or colocate all modules"
                )
        self._refuse_shared_stages()
        pipelined = next((name for name, grid in self.modules.items() if grid.pp > 1), None)
        if self.placement == "colocated" and pipelined is not None:
            raise LayoutError(
                f"{pipelined}.pp = {self.modules[pipelined].pp}: colocated modules cannot be pipelined in "
                f"megatron-core 0.19; use {pipelined}.pp = 1 or give the encoder ranks of its own"
            )

    def _refuse_shared_stages(self) -> None:
        for (name, grid), (other_name, other) in combinations(self.encoders.items(), 2):
            if self.placement == "disjoint" and grid.ranks == other.ranks and grid.pp != other.pp:
                raise LayoutError(
                    f"{name}.pp = {grid.pp} and {other_name}.pp = {other.pp} on the same ranks: a rank of "
                    "megatron-core 0.19 stands at one stage of the pipeline, whichever module it runs; use the same pp"
                )


def _span(ranks: range) -> str:
    return f"rank {ranks.start}" if len(ranks) == 1 else f"ranks {ranks.start}-{ranks.stop - 1}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """How one optimizer step's samples are dealt out: the same samples in every layout, only the split differs."""

    global_batch_size: int
    global_micro_batch_size: int
    num_micro_batches: int
    micro_batch_size: Mapping[str, int]
    """Samples per micro-batch on each data-parallel replica, by module."""

    @classmethod
    def of(cls, layout: Layout, *, global_batch_size: int, global_micro_batch_size: int) -> BatchPlan:
        """Split a global batch over a layout.

        Raises:
            LayoutError: the batch is no whole number of micro-batches, or a micro-batch no whole number of samples
                per replica.
        """
        if global_batch_size % global_micro_batch_size:
            raise LayoutError(
                f"global_batch_size = {global_batch_size} is no multiple of "
                f"global_micro_batch_size = {global_micro_batch_size}; change one of them"
            )
        for name, grid in layout.modules.items():
            if global_micro_batch_size % grid.dp:
                raise LayoutError(
                    f"global_micro_batch_size = {global_micro_batch_size} does not split over {name}.dp = {grid.dp}; "
                    f"use a multiple of {grid.dp}, in the scenario or for this layout"
                )
        return cls(
            global_batch_size=global_batch_size,
            global_micro_batch_size=global_micro_batch_size,
            num_micro_batches=global_batch_size // global_micro_batch_size,
            micro_batch_size={name: global_micro_batch_size // grid.dp for name, grid in layout.modules.items()},
        )

    def sample_ids(self, *, step: int, micro_batch: int, module: str, dp_rank: int) -> range:
        """Global sample ids that replica `dp_rank` of `module` sees in one micro-batch; steps count from 0.

        The one sharding rule of all modules: consecutive ids, dealt out in contiguous slices by data-parallel rank,
        which is the order in which the bridge joins and splits replicas.
        """
        size = self.micro_batch_size[module]
        first = step * self.global_batch_size + micro_batch * self.global_micro_batch_size + dp_rank * size
        return range(first, first + size)
