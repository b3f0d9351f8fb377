"""The language module: a LLaMA-shaped decoder on megatron-core's GPTModel."""

from __future__ import annotations

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.spec_utils import ModuleSpec

from mimo_bench.layout import LANGUAGE, Layout
from mimo_bench.model import LanguageShape
from mimo_bench.scenario import Precision, Settings
from mimo_bench.trainer.models.config import transformer_config
from mimo_bench.trainer.models.layers import block_spec
from mimo_bench.trainer.topology import Topology


def language_spec(
    shape: LanguageShape,
    *,
    layout: Layout,
    settings: Settings,
    precision: Precision,
    topology: Topology,
) -> ModuleSpec:
    """The pipeline stage that this rank holds; on ranks without one, the spec only carries the configuration."""
    pg_collection: ProcessGroupCollection | None = topology.groups.get(LANGUAGE)
    is_last = topology.is_last_stage(LANGUAGE)
    config = transformer_config(
        LANGUAGE,
        layout=layout,
        settings=settings,
        precision=precision,
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        layernorm_epsilon=shape.norm_epsilon,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
    )
    return ModuleSpec(
        module=GPTModel,
        params={
            "config": config,
            "transformer_layer_spec": block_spec(
                num_layers=shape.num_layers // layout.language.pp,
                causal=True,
                final_norm=is_last,
                attention=settings.attention,
            ),
            "vocab_size": shape.vocab_size,
            "max_sequence_length": shape.max_sequence_length,
            "pre_process": topology.is_first_stage(LANGUAGE),
            "post_process": is_last,
            "position_embedding_type": "rope",
            "rotary_base": shape.rotary_base,
            "share_embeddings_and_output_weights": False,
            # MimoModel merges the modalities first and scatters the merged sequence itself.
            "scatter_embedding_sequence_parallel": False,
            "pg_collection": pg_collection,
        },
    )
