"""The audio encoder: Whisper's, exactly, with as many positions side by side as Voxtral's projector reads at once."""

from __future__ import annotations

import math

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.transformer_config import TransformerConfig

from mimo_bench.layout import AttentionBackend
from mimo_bench.models.modules.build import Build
from mimo_bench.models.modules.layers_local import block_spec, fixed
from mimo_bench.models.whisper.shape import AudioShape

_LONGEST_WAVE = 10000.0
"""Positions, over two pi, of the slowest of the sinusoids."""


class AudioEncoder(torch.nn.Module):
    """Whisper's encoder as Voxtral reads it."""

    def __init__(
        self,
        config: TransformerConfig,
        shape: AudioShape,
        attention: AttentionBackend,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        """Build the layers of `shape` on the ranks of `pg_collection`, and of each pipeline stage its own."""
        super().__init__()
        self.config = config
        stage, num_stages = pg_collection.pp.rank(), pg_collection.pp.size()
        self._is_last = stage == num_stages - 1
        if stage == 0:
            self.conv1 = torch.nn.Conv1d(shape.num_mels, shape.hidden_size, kernel_size=3, padding=1)
            self.conv2 = torch.nn.Conv1d(shape.hidden_size, shape.hidden_size, kernel_size=3, stride=2, padding=1)
            # Not trained, but a weight: checkpoints hold it, some of them rounded.
            self.embed_positions = fixed(sinusoids(shape.num_positions, shape.hidden_size))
        self.decoder = TransformerBlock(
            config=config,
            spec=block_spec(
                num_layers=shape.num_layers // num_stages,
                causal=False,
                final_norm=self._is_last,
                attention=attention,
                key_bias=False,
            ),
            pg_collection=pg_collection,
        )
        self._num_tokens = shape.num_tokens

    def forward(self, inputs: torch.Tensor | None = None, *, hidden_states: torch.Tensor | None = None) -> torch.Tensor:
        """Encode clips, or on a later pipeline stage continue with what the stage before made of them.

        Args:
            inputs: [clips, mel bands, frames].
            hidden_states: [clips, positions, h].

        Returns:
            [clips, positions, h], on the last stage [clips, tokens, stacked positions * h]; batch-major as
            megatron-core's MIMO wants it.
        """
        hidden: torch.Tensor = self._embed(inputs) if hidden_states is None else hidden_states
        # The block works on [positions, clips, h].
        hidden = self.decoder(hidden.transpose(0, 1).contiguous(), None).transpose(0, 1).contiguous()
        if self._is_last:
            hidden = hidden.reshape(len(hidden), self._num_tokens, -1)
        return hidden

    def _embed(self, inputs: torch.Tensor | None) -> torch.Tensor:
        gelu = torch.nn.functional.gelu
        hidden: torch.Tensor = gelu(self.conv2(gelu(self.conv1(inputs)))).transpose(1, 2)
        return hidden + self.embed_positions


def sinusoids(num_positions: int, width: int) -> torch.Tensor:
    """Whisper's fixed positions: sines in the first half of the dims, cosines in the second; float32 [positions, h].

    Frequencies fall geometrically from 1 to 1 / 10000, both included.
    """
    half = width // 2
    # In float64, so that no machine rounds another way.
    frequencies = torch.exp(-math.log(_LONGEST_WAVE) / (half - 1) * torch.arange(half, dtype=torch.float64))
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def audio_encoder(shape: AudioShape, build: Build) -> ModuleSpec:
    """Whisper's encoder on this rank."""
    config = build.config(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        normalization="LayerNorm",
        activation_func=torch.nn.functional.gelu,
        add_bias_linear=True,
    )
    return ModuleSpec(
        module=AudioEncoder,
        params={
            "config": config,
            "shape": shape,
            "attention": build.settings.attention,
            "pg_collection": build.pg_collection,
        },
    )
