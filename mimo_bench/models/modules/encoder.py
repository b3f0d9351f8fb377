"""An encoder module: the encoder itself, of whatever kind, and the projector into the language model's width.

vision, audio -> stages -> [encoder] -> mimo
"""

from __future__ import annotations

from typing import cast

import torch
from megatron.core.models.vision.multimodal_projector import MultimodalProjector
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from mimo_bench.models.base import EncoderProvider, EncoderShape
from mimo_bench.models.modules.build import ENCODER, Build
from mimo_bench.models.modules.layers_local import mlp_submodules
from mimo_bench.models.modules.stages import EncoderStages


def encoder_module(shape: EncoderShape, *, width: int, build: Build) -> ModuleSpec:
    """Encoder and projector of one module.

    Args:
        shape: the encoder's.
        width: the language model's.
        build: where it goes.
    """
    return ModuleSpec(
        module=EncoderStages,
        params={"pg_collection": build.pg_collection},
        submodules={
            "encoders": {ENCODER: cast(EncoderProvider, shape).encoder_spec(build)},
            "input_projections": [_projector(shape, width=width, build=build)],
        },
    )


def encoder_config(module: torch.nn.Module) -> TransformerConfig:
    """megatron-core's configuration of an encoder module: its encoder's."""
    return module.get_submodule(f"encoders.{ENCODER}").config


def _projector(shape: EncoderShape, *, width: int, build: Build) -> ModuleSpec:
    """Two layers with a GELU between them, as LLaVA and Voxtral have."""
    return ModuleSpec(
        module=MultimodalProjector,
        params={
            "config": build.config(
                num_layers=1,
                hidden_size=width,
                ffn_hidden_size=width,
                # There is no attention; megatron-core wants heads that TP divides.
                num_attention_heads=build.layout.modules[build.module].tp,
                activation_func=torch.nn.functional.gelu,
                add_bias_linear=shape.projector_bias,
            ),
            "submodules": mlp_submodules(),
            "projector_type": "mlp",
            "input_size": shape.output_size,
            "tp_group": build.pg_collection.tp if build.pg_collection is not None else None,
        },
    )
