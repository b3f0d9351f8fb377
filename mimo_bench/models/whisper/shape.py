"""Whisper's encoder in integers: shape, parameters and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mimo_bench.models.table import Part, Row, attention_layer, layer_flops, passes

_NAMES = {
    "input_layernorm": ("self_attn_layer_norm",),
    "self_attention.linear_proj": ("self_attn.out_proj",),
    "self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "pre_mlp_layernorm": ("final_layer_norm",),
    "mlp.linear_fc1": ("fc1",),
    "mlp.linear_fc2": ("fc2",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioShape:
    """Whisper's encoder, and how Voxtral's projector reads it.

    Two convolutions, the second of stride 2, fixed positions, layers without key biases, a final norm. The projector
    reads `num_stacked` neighbouring positions side by side, and has no biases.
    """

    num_mels: int
    """Mel bands of a frame."""
    num_positions: int
    """Positions per clip inside the encoder; a clip has twice as many frames."""
    hidden_size: int
    ffn_hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_stacked: int = 4
    """Positions that become one token."""

    def __post_init__(self) -> None:
        assert self.num_positions % self.num_stacked == 0, "a token would straddle two clips"

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return 2 * self.num_positions

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Mel bands and frames of one clip as the encoder reads it."""
        return self.num_mels, self.num_frames

    @property
    def num_tokens(self) -> int:
        """Language positions that one clip takes."""
        return self.num_positions // self.num_stacked

    @property
    def output_size(self) -> int:
        """Width of what the projector reads."""
        return self.num_stacked * self.hidden_size

    @property
    def projector_bias(self) -> bool:
        """Voxtral's projector has none."""
        return False

    @property
    def split_over_tp(self) -> Mapping[str, int]:
        """Sizes that tensor parallelism must divide."""
        return {"attention heads": self.num_attention_heads, "the MLP width": self.ffn_hidden_size}

    @property
    def kept_before_layers(self) -> int:
        """Two convolutions with their activations, the first on twice as many positions, and the sum with positions."""
        return 7

    def flops_per_item(self, *, is_trained: bool) -> int:
        """Return the operations of one clip: convolutions over three frames, the second of stride 2, and the layers.

        Frames need no gradient.
        """
        h = self.hidden_size
        first = self.num_frames * 2 * 3 * self.num_mels * h
        layers = self.num_positions * 2 * 3 * h * h + layer_flops(self, self.num_positions)
        return passes(inputs=False, weights=is_trained) * first + passes(inputs=is_trained, weights=is_trained) * layers

    def encoder_spec(self, build: Any) -> Any:
        """Return the encoder on one rank."""
        # torch, which a shape does without.
        from mimo_bench.models.whisper.module import audio_encoder

        return audio_encoder(self, build)

    def rows(self, module: str) -> Iterator[Row]:
        """Yield every parameter; keys have no bias."""
        width, ours = self.hidden_size, f"{module}.encoder"

        def row(name: str, *theirs: str, dims: tuple[int, ...], **place: Any) -> Row:
            parts = tuple(Part(component="audio_tower", name=part, shape=dims) for part in theirs)
            whole = (dims[0] * len(parts), *dims[1:])
            return Row(module=module, name=f"{ours}.{name}", shape=whole, parts=parts, **place)

        yield row("embed_positions", "embed_positions.weight", dims=(self.num_positions, width), is_fixed=True)
        for name, into in (("conv1", self.num_mels), ("conv2", width)):
            yield row(f"{name}.weight", f"{name}.weight", dims=(width, into, 3))
            yield row(f"{name}.bias", f"{name}.bias", dims=(width,))
        for index in range(self.num_layers):
            layer, attention = f"decoder.layers.{index}", f"layers.{index}.self_attn"
            # Query and value, head by head.
            bias = row(
                f"{layer}.self_attention.linear_qkv.query_value_bias",
                f"{attention}.q_proj.bias",
                f"{attention}.v_proj.bias",
                dims=(width,),
                groups=self.num_attention_heads,
                layer=index,
                split=0,
            )
            for one in attention_layer(
                f"{ours}.{layer}",
                module=module,
                layer=index,
                component="audio_tower",
                theirs=f"layers.{index}",
                names=_NAMES,
                width=width,
                heads=(self.num_attention_heads,) * 2 + (width // self.num_attention_heads,),
                ffn=(self.ffn_hidden_size,),
                biased=frozenset(_NAMES) - {"self_attention.linear_qkv"},
            ):
                yield one
                if one.name.endswith("linear_qkv.weight"):
                    yield bias
        for kind in ("weight", "bias"):
            yield row(f"decoder.final_layernorm.{kind}", f"layer_norm.{kind}", dims=(width,), is_last=True)
