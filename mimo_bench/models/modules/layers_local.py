"""The transformer layer that every module stacks: megatron-core's own, with our attention core and norms.

Without transformer-engine megatron-core's local attention materialises [s, s] scores and its local norms refuse
sequence parallelism; these two parts are replaced, the rest of the layer is stock.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch.nn.attention import SDPBackend, sdpa_kernel

from mimo_bench.layout import AttentionBackend
from mimo_bench.models.kernels.linear import ColumnLinear, RowLinear

_KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


class SdpaCoreAttention(torch.nn.Module):
    """Attention proper on PyTorch's scaled_dot_product_attention, causal or full, grouped queries included."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        *,
        backend: AttentionBackend,
    ) -> None:
        """Take the arguments that megatron-core gives to any attention core, and the kernel to use on GPUs."""
        super().__init__()
        self.backend = backend
        dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        assert dropout == 0.0, "dropout would differ between layouts"
        self.is_causal = attn_mask_type == AttnMaskType.causal
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            query: [s, b, heads, d] of this tensor-parallel rank.
            key: [s, b, groups, d]; `heads` is a multiple of `groups`.
            value: [s, b, groups, d].
            attention_mask: none; padding is on the right, where a causal mask already hides it.

        Returns:
            [s, b, heads * d].
        """
        assert attention_mask is None, "samples are padded on the right, which the causal mask hides"
        assert attention_bias is None, "no attention bias is built"
        assert packed_seq_params is None, "no packed sequences are built"
        with self._kernel(query):
            context = torch.nn.functional.scaled_dot_product_attention(
                query.permute(1, 2, 0, 3),
                key.permute(1, 2, 0, 3),
                value.permute(1, 2, 0, 3),
                is_causal=self.is_causal,
                scale=self.softmax_scale,
                enable_gqa=key.shape[2] != query.shape[2],
            )
        return context.permute(2, 0, 1, 3).flatten(2)

    def _kernel(self, query: torch.Tensor) -> AbstractContextManager[Any]:
        if self.backend == "default" or not query.is_cuda:
            return nullcontext()
        return sdpa_kernel(_KERNELS[self.backend])


class Norm:
    """Builds LayerNorm or RMSNorm, as `config.normalization` says, over the last dim.

    A class, because megatron-core takes a function in a spec for the finished module.
    """

    def __new__(cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> torch.nn.Module:  # type: ignore[misc]
        """The norm, its parameters marked for the reduction that sequence parallelism needs."""
        kinds = {"LayerNorm": torch.nn.LayerNorm, "RMSNorm": torch.nn.RMSNorm}
        norm: torch.nn.Module = kinds[config.normalization](hidden_size, eps=eps)
        for parameter in norm.parameters():
            # Each rank sees a part of the sequence then, so finalisation must sum over the tp group.
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm


class KeylessBiasLinear(ColumnLinear):
    """Queries, keys and values, head by head, with a bias on queries and values alone: Whisper's keys have none."""

    def __init__(
        self, input_size: int, output_size: int, *, config: TransformerConfig, bias: bool, **options: Any
    ) -> None:
        """Take the arguments that megatron-core gives to any such layer; every head has its own key and value."""
        super().__init__(input_size, output_size, config=config, bias=False, **options)
        assert bias, "without biases there is nothing to leave out"
        assert config.num_query_groups == config.num_attention_heads, "a group of several heads is not built"
        self._head_size = config.kv_channels
        self.query_value_bias = torch.nn.Parameter(self.weight.new_empty(self.output_size_per_partition * 2 // 3))
        set_tensor_model_parallel_attributes(self.query_value_bias, is_parallel=True, dim=0, stride=1)

    def forward(self, input_: torch.Tensor, *options: Any) -> tuple[torch.Tensor, None]:
        """[s, b, heads * 3 * d] of this tensor-parallel rank."""
        output, _ = super().forward(input_, *options)
        query, value = self.query_value_bias.view(-1, 2, self._head_size).unbind(1)
        return output + torch.stack([query, torch.zeros_like(query), value], dim=1).flatten(), None


FIXED = "fixed_values"
"""Attribute of a parameter that is not trained: what it holds wherever weights are drawn."""


def fixed(values: torch.Tensor) -> torch.nn.Parameter:
    """A parameter that holds `values` and gets no gradient; imported weights may hold others."""
    parameter = torch.nn.Parameter(values, requires_grad=False)
    setattr(parameter, FIXED, values)
    return parameter


def mlp_submodules() -> MLPSubmodules:
    """The two tensor-parallel projections of an MLP."""
    return MLPSubmodules(linear_fc1=ColumnLinear, linear_fc2=RowLinear)


def _experts() -> partial[MoELayer]:
    """A router and its experts, one MLP after the other."""
    return partial(MoELayer, submodules=MoESubmodules(experts=partial(SequentialMLP, submodules=mlp_submodules())))


def block_spec(
    *,
    num_layers: int,
    causal: bool,
    final_norm: bool,
    attention: AttentionBackend,
    key_bias: bool = True,
    has_experts: bool = False,
) -> TransformerBlockSubmodules:
    """The layers of one pipeline stage.

    Args:
        num_layers: layers of this stage.
        causal: whether a position sees only those before it.
        final_norm: whether the stage ends in a norm.
        attention: the kernel on GPUs.
        key_bias: whether keys have a bias where queries and values have one.
        has_experts: whether routed experts stand where the MLP would.
    """
    layer = ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=Norm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal if causal else AttnMaskType.no_mask},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnLinear if key_bias else KeylessBiasLinear,
                    core_attention=partial(SdpaCoreAttention, backend=attention),
                    linear_proj=RowLinear,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=Norm,
            mlp=_experts() if has_experts else partial(MLP.as_mlp_submodule, submodules=mlp_submodules()),
            mlp_bda=get_bias_dropout_add,
        ),
    )
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=Norm if final_norm else None)
