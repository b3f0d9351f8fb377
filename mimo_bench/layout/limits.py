"""Layouts and settings that megatron-core 0.19 cannot train. One function a limit: an upgrade deletes it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from mimo_bench.util import LayoutError

if TYPE_CHECKING:
    from mimo_bench.layout.layout import Layout

WITHOUT_FP16 = (
    "megatron-core 0.19 scales the loss for each module on its own, and after one of them overflows they train apart; "
    'use "bf16"'
)
"""Reason why there is no such precision."""


def refuse_fp16(precision: Any) -> None:
    """Refuse fp16: every module has a loss scale of its own.

    Raises:
        ValueError: `precision` is fp16.
    """
    if precision == "fp16":
        raise ValueError(WITHOUT_FP16)


def refuse_virtual_stages(grid: Any) -> None:
    """Refuse `vpp` in the table of a grid: the schedule over several modules has one stage a rank.

    Raises:
        ValueError: the table has the key.
    """
    if isinstance(grid, Mapping) and "vpp" in grid:
        raise ValueError(
            f"vpp = {grid['vpp']}: megatron-core 0.19 schedules several modules with one stage a rank, so there are no "
            "virtual stages; remove it"
        )


def check_context_parallel(cp: int) -> None:
    """Refuse context parallelism: the bridge does not split sequences.

    Raises:
        LayoutError: `cp` is above 1.
    """
    if cp != 1:
        raise LayoutError(f"cp = {cp}: megatron-core 0.19 has no context parallelism across the bridge; use cp = 1")


def check_layout(layout: Layout) -> None:
    """Refuse a layout that megatron-core cannot train.

    Raises:
        LayoutError: naming module, degree and remedy.
    """
    _check_experts_of_encoders(layout)
    _check_replicas(layout)
    _check_shared_language_ranks(layout)
    _check_shared_stages(layout)
    _check_colocated_pipeline(layout)


def _check_experts_of_encoders(layout: Layout) -> None:
    for name, grid in layout.encoders.items():
        if grid.ep > 1:
            raise LayoutError(f"{name}.ep = {grid.ep}: encoders have no experts to deal out; use {name}.ep = 1")


def _check_replicas(layout: Layout) -> None:
    for name, grid in layout.encoders.items():
        if grid.dp % layout.language.dp and layout.language.dp % grid.dp:
            raise LayoutError(
                f"{name}.dp = {grid.dp} and language.dp = {layout.language.dp}: "
                "the bridge splits or joins whole replicas; let one dp divide the other"
            )


def _check_shared_language_ranks(layout: Layout) -> None:
    for name, grid in layout.encoders.items():
        if grid.ranks == layout.language.ranks and layout.placement == "disjoint":
            apart = next(other for other, its in layout.encoders.items() if its.ranks != grid.ranks)
            raise LayoutError(
                f"{name} shares {span(grid.ranks)} with the language model while {apart} is elsewhere: between "
                "spans, a rank of megatron-core 0.19 runs encoders or the language model, never both; "
                f"give {name} ranks of its own, those of {apart} for example, or colocate all modules"
            )


def _check_shared_stages(layout: Layout) -> None:
    for (name, grid), (other_name, other) in combinations(layout.encoders.items(), 2):
        if layout.placement == "disjoint" and grid.ranks == other.ranks and grid.pp != other.pp:
            raise LayoutError(
                f"{name}.pp = {grid.pp} and {other_name}.pp = {other.pp} on the same ranks: a rank of "
                "megatron-core 0.19 stands at one stage of the pipeline, whichever module it runs; use the same pp"
            )


def _check_colocated_pipeline(layout: Layout) -> None:
    pipelined = next((name for name, grid in layout.modules.items() if grid.pp > 1), None)
    if layout.placement == "colocated" and pipelined is not None:
        raise LayoutError(
            f"{pipelined}.pp = {layout.modules[pipelined].pp}: colocated modules cannot be pipelined in "
            f"megatron-core 0.19; use {pipelined}.pp = 1 or give the encoder ranks of its own"
        )


def span(ranks: range) -> str:
    """Return the ranks in words: `rank 3`, `ranks 0-3`."""
    return f"rank {ranks.start}" if len(ranks) == 1 else f"ranks {ranks.start}-{ranks.stop - 1}"
