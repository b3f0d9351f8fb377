"""Layouts and settings that cannot be trained: one function a limit, with the version that has it.

An upgrade that lifts a limit deletes its function. Versions are megatron-core 0.19 and torch 2.11.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from mimo_bench.util import LayoutError

if TYPE_CHECKING:
    from mimo_bench.layout.layout import Layout
    from mimo_bench.layout.settings import Settings

WITHOUT_FP16 = (
    "megatron-core 0.19 scales the loss for each module on its own, and after one of them overflows they train apart; "
    'use "bf16"'
)
"""Reason for refusing the precision fp16."""


def refuse_fp16(precision: Any) -> None:
    """Refuse fp16: in megatron-core 0.19 each module scales its own loss.

    Raises:
        ValueError: `precision` is fp16.
    """
    if precision == "fp16":
        raise ValueError(WITHOUT_FP16)


def refuse_virtual_stages(grid: Any) -> None:
    """Refuse `vpp` in the table of a grid: megatron-core 0.19 schedules several modules with one stage a rank.

    Raises:
        ValueError: the table has the key.
    """
    if isinstance(grid, Mapping) and "vpp" in grid:
        raise ValueError(
            f"vpp = {grid['vpp']}: megatron-core 0.19 schedules several modules with one stage a rank, so there are no "
            "virtual stages; remove it"
        )


def check_context_parallel(cp: int) -> None:
    """Refuse context parallelism: the bridge of megatron-core 0.19 does not split sequences.

    Raises:
        LayoutError: `cp` is above 1.
    """
    if cp != 1:
        raise LayoutError(f"cp = {cp}: megatron-core 0.19 has no context parallelism across the bridge; use cp = 1")


def check_layout(layout: Layout) -> None:
    """Refuse a layout that megatron-core 0.19 cannot train.

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
            raise LayoutError(f"{name}.ep = {grid.ep}: encoders have no experts; use {name}.ep = 1")


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


def check_compiled_layers(settings: Settings, *, has_experts: bool, counts_vary: bool) -> None:
    """Refuse compiled layers whose shapes change in every micro-batch: torch 2.11 compiles each shape anew.

    Raises:
        LayoutError: items or routing change shapes.
    """
    if settings.compile_layers and counts_vary:
        raise LayoutError(
            "settings.compile_layers: layers are compiled anew for every number of items in a micro-batch, and "
            "data gives samples different numbers of them; switch it off, or give every sample as many"
        )
    if settings.compile_layers and has_experts:
        raise LayoutError(
            "settings.compile_layers: layers are compiled anew for every number of positions that reach an expert, "
            "and routing changes it in every micro-batch; switch it off"
        )


def refuse_compiled_sequence_parallel(*, sequence_parallel: bool, compile_layers: bool) -> None:
    """Refuse compiled layers under sequence parallelism.

    With torch 2.11 on two H200s the loss stays the same, and layers below the topmost get no gradient.

    Raises:
        ValueError: both are on.
    """
    if sequence_parallel and compile_layers:
        raise ValueError(
            "compile_layers loses gradients under sequence_parallel, without an error; switch one of them off"
        )


def check_expert_settings(settings: Settings, *, tp: int) -> None:
    """Refuse settings that a language model with experts cannot be trained with.

    Raises:
        LayoutError: the SwiGLU kernel takes no routing weights, or megatron-core 0.19 would route with `tp` ranks.
    """
    if settings.fused_activation:
        raise LayoutError(
            "settings.fused_activation: experts weigh what their activation gives, which the kernel does not; "
            "switch it off"
        )
    if tp > 1 and not settings.sequence_parallel:
        raise LayoutError(
            f"language.tp = {tp}: experts are trained with tensor parallelism only where each rank routes "
            "positions of its own; set settings.sequence_parallel = true"
        )


def check_attention(settings: Settings, *, precision: str) -> None:
    """Refuse attention kernels of torch 2.11 that take no fp32.

    Raises:
        LayoutError: the kernel takes bf16 only.
    """
    if settings.attention in ("flash", "cudnn") and precision != "bf16":
        raise LayoutError(
            f"settings.attention = {settings.attention!r} takes bf16 only and precision is {precision!r}; use "
            'attention = "default"'
        )


def span(ranks: range) -> str:
    """Return the ranks in words: `rank 3`, `ranks 0-3`."""
    return f"rank {ranks.start}" if len(ranks) == 1 else f"ranks {ranks.start}-{ranks.stop - 1}"
