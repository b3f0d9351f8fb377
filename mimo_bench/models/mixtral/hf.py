"""Mixtral's experts in a config.json of `transformers`."""

from __future__ import annotations

from typing import Any

from mimo_bench.models.hf.config_section import Section
from mimo_bench.models.mixtral.shape import Experts


def read_experts(section: Section) -> Experts:
    """Return the experts, routed without noise and trained by no loss but the answer's."""
    section.only("router_jitter_noise", 0, default=0)
    section.only("output_router_logits", False, default=False)
    # Weighs a loss that only those logits have.
    section.take("router_aux_loss_coef", None)
    num_experts, num_used = section.integer("num_local_experts", 8), section.integer("num_experts_per_tok", 2)
    if not 2 <= num_used <= num_experts:
        remedy = f"a router learns from the weights that it gives to several; use 2 to {num_experts}"
        section.refuse("num_experts_per_tok", remedy, num_used)
    return Experts(num_experts=num_experts, num_used=num_used)


def write_experts(experts: Experts) -> dict[str, Any]:
    """Return the keys that `read_experts` reads as `experts`."""
    return {"num_local_experts": experts.num_experts, "num_experts_per_tok": experts.num_used}
