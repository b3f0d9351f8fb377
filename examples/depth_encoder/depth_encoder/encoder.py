"""The encoder of the module `depth`, on megatron-core's tensor-parallel layers."""

from __future__ import annotations

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from depth_encoder.provider import DepthProvider
from mimo_bench.models import Build


class DepthEncoder(torch.nn.Module):
    """Patches, a norm and an MLP beside them."""

    def __init__(
        self, config: TransformerConfig, provider: DepthProvider, pg_collection: ProcessGroupCollection
    ) -> None:
        """Build this rank's part."""
        super().__init__()
        # Whoever wraps the module for data parallelism asks for it.
        self.config = config
        patch = provider.patch_size
        self.patches = torch.nn.Conv2d(provider.num_channels, provider.hidden_size, kernel_size=patch, stride=patch)
        self.norm = torch.nn.LayerNorm(provider.hidden_size)
        split = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
        self.mlp = MLP(config, split, tp_group=pg_collection.tp)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[maps, channels, size, size] in, [maps, patches, h] out: batch-major, as megatron-core's MIMO flattens it."""
        features = self.patches(inputs).flatten(2).transpose(1, 2)
        output, bias = self.mlp(self.norm(features))
        encoded: torch.Tensor = features + output + bias
        return encoded


def encoder_spec(provider: DepthProvider, build: Build) -> ModuleSpec:
    """Specification by which megatron-core builds the encoder; on ranks that do not host it, nothing is built."""
    h = provider.hidden_size
    config = build.config(
        num_layers=1,
        hidden_size=h,
        ffn_hidden_size=4 * h,
        # There is no attention; megatron-core wants heads that TP divides.
        num_attention_heads=build.layout.modules[build.module].tp,
        activation_func=torch.nn.functional.gelu,
        add_bias_linear=True,
    )
    return ModuleSpec(
        module=DepthEncoder,
        params={"config": config, "provider": provider, "pg_collection": build.pg_collection},
    )
