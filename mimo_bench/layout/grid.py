"""One module's parallel degrees over a contiguous span of ranks."""

from __future__ import annotations

from dataclasses import dataclass

from mimo_bench.layout import limits
from mimo_bench.util import LayoutError


@dataclass(frozen=True, kw_only=True, slots=True)
class Coordinate:
    """Index of one rank along each axis of a grid."""

    tp: int
    dp: int
    pp: int
    ep: int = 0
    """Part of the experts that it holds."""


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
        limits.check_context_parallel(self.cp)
        if (ranks := self.tp * self.dp) % self.ep:
            raise LayoutError(
                f"ep = {self.ep}: experts are split over the ranks of a stage; use a divisor of tp * dp = {ranks}"
            )

    @property
    def size(self) -> int:
        """Number of ranks of the span."""
        return self.tp * self.cp * self.pp * self.dp

    @property
    def expert_dp(self) -> int:
        """Number of ranks that hold the same expert."""
        return self.tp * self.dp // self.ep

    @property
    def ranks(self) -> range:
        """The global ranks of the span."""
        return range(self.rank_offset, self.rank_offset + self.size)

    def coordinate(self, rank: int) -> Coordinate:
        """Return the coordinate of a global `rank` of this span."""
        assert rank in self.ranks, f"rank {rank} is not in {self.ranks}"
        inside = rank - self.rank_offset
        return Coordinate(
            tp=inside % self.tp,
            dp=inside // self.tp % self.dp,
            pp=inside // (self.tp * self.dp),
            ep=inside % self.ep,
        )
