"""Experts in integers, and their names in checkpoints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """Experts of every layer: for each position a router picks some of many MLPs.

    The logits of the picked ones go through a softmax and weigh their outputs. No position is dropped, and
    no loss balances them.
    """

    num_experts: int
    num_used: int
    """Experts that each position goes through."""

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Our names in a layer, and their parts in a checkpoint, which holds each expert in tensors of its own."""
        names: dict[str, tuple[str, ...]] = {"mlp.router": ("block_sparse_moe.gate",)}
        for expert in range(self.num_experts):
            ours, theirs = f"mlp.experts.{expert}", f"block_sparse_moe.experts.{expert}"
            names[f"{ours}.linear_fc1"] = (f"{theirs}.w1", f"{theirs}.w3")
            names[f"{ours}.linear_fc2"] = (f"{theirs}.w2",)
        return names
