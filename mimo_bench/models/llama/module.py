"""The language module: decoders of the LLaMA family on megatron-core's GPTModel."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.spec_utils import ModuleSpec

from mimo_bench.models.kernels.cross_entropy import FusedCrossEntropy
from mimo_bench.models.kernels.rope import cache_cos_sin, inverse_frequencies
from mimo_bench.models.llama.shape import LanguageShape
from mimo_bench.models.modules.build import Build
from mimo_bench.models.modules.layers_local import block_spec

WORD_EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
"""Of the last stage; it has none where it shares the stage, and ties its weight, with the word embedding."""

UNPADDED_ROWS = "unpadded_rows"
"""Attribute of a parameter whose rows were padded to split over ranks: how many rows of the whole are real."""


class LanguageModel(GPTModel):
    """Pipeline stage of a decoder, with a masked padded vocabulary, rope scaling and our own loss."""

    def __init__(
        self, *, shape: LanguageShape, pg_collection: ProcessGroupCollection, fused_loss: bool, **options: Any
    ) -> None:
        """Build the stage that `options`, GPTModel's own, describe."""
        num_ranks = pg_collection.tp.size()
        rows_per_rank = -(-shape.vocab_size // num_ranks)
        super().__init__(vocab_size=rows_per_rank * num_ranks, pg_collection=pg_collection, **options)
        self.rotary_pos_emb.inv_freq = inverse_frequencies(shape, device=self.rotary_pos_emb.inv_freq.device)
        cache_cos_sin(self.rotary_pos_emb, dtype=self.config.params_dtype)
        self._num_vocab_rows = min(max(shape.vocab_size - pg_collection.tp.rank() * rows_per_rank, 0), rows_per_rank)
        """Real rows of the vocabulary on this rank; those behind them are padding."""
        self._fused_loss = FusedCrossEntropy(pg_collection.tp) if fused_loss else None
        for name, parameter in self.named_parameters():
            if name in (WORD_EMBEDDING, OUTPUT):
                setattr(parameter, UNPADDED_ROWS, shape.vocab_size)

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The loss of each position, float32 [b, s], of labels [b, s] and logits [s, b, vocabulary / tp]."""
        if self._fused_loss is None:
            losses: torch.Tensor = super().compute_language_model_loss(labels, logits)
            return losses
        return self._fused_loss(logits, labels.t()).t().contiguous()

    def _scale_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Take padding out of the softmax. GPTModel calls this once on its logits, [s, b, vocabulary / tp].

        Padded rows then have neither probability nor gradient, so any padding trains the same model.
        """
        logits = super()._scale_logits(logits)
        if self._num_vocab_rows < logits.shape[-1]:
            logits[..., self._num_vocab_rows :] = -torch.inf
        return logits


def language_spec(
    shape: LanguageShape,
    *,
    build: Build,
) -> ModuleSpec:
    """The pipeline stage that this rank holds; on ranks without one, the spec only carries the configuration."""
    config = build.config(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        kv_channels=shape.head_size,
        layernorm_epsilon=shape.norm_epsilon,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        bias_activation_fusion=build.settings.fused_activation,
        fused_single_qkv_rope=build.settings.fused_rope,
        add_bias_linear=False,
        add_qkv_bias=shape.qkv_bias,
        **_routing(shape, ep=build.layout.language.ep),
    )
    return ModuleSpec(
        module=LanguageModel,
        params={
            "config": config,
            "shape": shape,
            "fused_loss": build.settings.fused_loss,
            "transformer_layer_spec": block_spec(
                num_layers=shape.num_layers // build.layout.language.pp,
                causal=True,
                final_norm=build.is_last_stage,
                attention=build.settings.attention,
                has_experts=shape.experts is not None,
            ),
            "max_sequence_length": shape.max_sequence_length,
            "pre_process": build.is_first_stage,
            "post_process": build.is_last_stage,
            "position_embedding_type": "rope",
            "share_embeddings_and_output_weights": shape.tied_embeddings,
            # MimoModel merges the modalities first and scatters the merged sequence itself.
            "scatter_embedding_sequence_parallel": False,
            "pg_collection": build.pg_collection,
        },
    )


def _routing(shape: LanguageShape, *, ep: int) -> dict[str, Any]:
    """The fields of megatron-core's configuration that say where experts are, and which a position goes through."""
    if shape.experts is None:
        return {}
    return {
        "expert_model_parallel_size": ep,
        "expert_tensor_parallel_size": 1,
        "num_moe_experts": shape.experts.num_experts,
        "moe_ffn_hidden_size": shape.ffn_hidden_size,
        "moe_router_topk": shape.experts.num_used,
        # A balancing loss is a mean over the positions of one rank, so it would not be the same in every layout.
        "moe_router_load_balancing_type": "none",
        # In bf16 logits would often tie, and then rounding alone would route.
        "moe_router_dtype": "fp32",
    }
