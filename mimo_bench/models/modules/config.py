"""megatron-core's transformer configuration of one module: what all modules of a layout share, said once."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from mimo_bench.layout import LANGUAGE, Layout, Precision, Settings

ENCODER = "encoder"
"""The encoder's name inside its module, of whatever kind; inputs are addressed to it."""

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def transformer_config(
    module: str, *, layout: Layout, settings: Settings, precision: Precision, **shape: Any
) -> TransformerConfig:
    """The configuration of `module`.

    Args:
        module: its name in the layout.
        layout: where it sits.
        settings: how it trains.
        precision: of parameters and activations.
        **shape: fields of TransformerConfig that the module's shape decides.
    """
    grid = layout.modules[module]
    dtype = DTYPES[precision]
    on_cpu = not torch.cuda.is_available()
    return TransformerConfig(
        tensor_model_parallel_size=grid.tp,
        pipeline_model_parallel_size=grid.pp,
        sequence_parallel=settings.sequence_parallel and module == LANGUAGE and grid.tp > 1,
        bf16=precision == "bf16",
        params_dtype=dtype,
        pipeline_dtype=dtype,
        # What the bridge carries varies with the images of a micro-batch, so shapes travel ahead of tensors.
        variable_seq_lengths=layout.placement == "disjoint",
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
        gradient_accumulation_fusion=settings.fused_gradient_accumulation,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        recompute_granularity="full" if settings.recompute_activations else None,
        recompute_method="uniform" if settings.recompute_activations else None,
        recompute_num_layers=1 if settings.recompute_activations else None,
        **shape,
    )
