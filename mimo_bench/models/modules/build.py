"""Rank that a provider builds a module for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig

from mimo_bench.layout import LANGUAGE, Layout, Precision, Settings

ENCODER = "encoder"
"""The encoder's name inside its module, of whatever kind; inputs are addressed to it."""

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """One module on one rank."""

    module: str
    """Its name in the layout."""
    layout: Layout
    settings: Settings
    precision: Precision
    pg_collection: ProcessGroupCollection | None
    """The module's process groups; None on ranks that do not host it, where a spec is made and nothing built."""
    is_first_stage: bool
    is_last_stage: bool
    """Whether this rank holds the module's first, or last, pipeline stage."""

    def config(self, **shape: Any) -> TransformerConfig:
        """Return megatron-core's configuration of the module, with the fields that its `shape` decides."""
        grid = self.layout.modules[self.module]
        dtype = DTYPES[self.precision]
        on_cpu = not torch.cuda.is_available()
        return TransformerConfig(
            tensor_model_parallel_size=grid.tp,
            pipeline_model_parallel_size=grid.pp,
            sequence_parallel=self.settings.sequence_parallel and self.module == LANGUAGE and grid.tp > 1,
            bf16=self.precision == "bf16",
            params_dtype=dtype,
            pipeline_dtype=dtype,
            # What the bridge carries varies with the images of a micro-batch, so shapes travel ahead of tensors.
            variable_seq_lengths=self.layout.placement == "disjoint",
            # Checked even without experts: the default dispatcher refuses variable lengths.
            moe_token_dispatcher_type="alltoall",
            batch_p2p_sync=False,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            # Gradients are summed over replicas and divided once by the global token count: the degrees of the modules
            # differ, so a mean per module would scale each module's gradient by its own dp.
            calculate_per_token_loss=True,
            # Weights are drawn by canonical name afterwards, so megatron-core need not draw any.
            perform_initialization=False,
            use_cpu_initialization=on_cpu,
            gradient_accumulation_fusion=self.settings.fused_gradient_accumulation,
            masked_softmax_fusion=False,
            persist_layer_norm=False,
            recompute_granularity="full" if self.settings.recompute_activations else None,
            recompute_method="uniform" if self.settings.recompute_activations else None,
            recompute_num_layers=1 if self.settings.recompute_activations else None,
            **shape,
        )
