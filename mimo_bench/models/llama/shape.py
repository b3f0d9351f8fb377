"""Decoders of the LLaMA family in integers: shape, parameters and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from mimo_bench.models.mixtral.shape import Experts
from mimo_bench.models.table import EMBEDDING, Component, Part, Row, attention_layer, passes

_ATTENTION = {
    "input_layernorm": ("input_layernorm",),
    "self_attention.linear_proj": ("self_attn.o_proj",),
    "self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "pre_mlp_layernorm": ("post_attention_layernorm",),
}
_MLP = {"mlp.linear_fc1": ("mlp.gate_proj", "mlp.up_proj"), "mlp.linear_fc2": ("mlp.down_proj",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearRope:
    """Rotary positions squeezed: every angle is divided by `factor`."""

    factor: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Llama3Rope:
    """Rotary positions as LLaMA 3.1 stretches them: long wavelengths by `factor`, short ones not, others in between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageShape:
    """A decoder of the LLaMA family: rotary positions, RMSNorm, SwiGLU, grouped-query attention."""

    vocab_size: int
    hidden_size: int
    ffn_hidden_size: int
    """Of the MLP; of each one where there are experts."""
    num_layers: int
    num_attention_heads: int
    num_query_groups: int
    head_size: int
    """Width of one attention head; the heads together need not be as wide as the model."""
    max_sequence_length: int
    sliding_window: int | None = None
    """Positions that a position sees, itself included; longer sequences are refused, so it never bites."""
    rotary_base: float = 10000.0
    rotary_scaling: LinearRope | Llama3Rope | None = None
    norm_epsilon: float = 1e-5
    qkv_bias: bool = False
    """Biases on queries, keys and values; no other projection has one."""
    tied_embeddings: bool = False
    """Whether the output layer is the word embedding."""
    image_token_id: int | None = None
    """The token whose positions an image's patches fill; None without vision."""
    audio_token_id: int | None = None
    """The token whose positions a clip's tokens fill; None without audio."""
    experts: Annotated[Experts | None, Field(exclude_if=lambda experts: experts is None)] = None
    """None where every layer has one MLP."""

    @property
    def split_over_tp(self) -> Mapping[str, int]:
        """Sizes that tensor parallelism must divide; the vocabulary is padded, and experts stay whole."""
        mlp = {"the MLP width": self.ffn_hidden_size} if self.experts is None else {}
        return {"attention heads": self.num_attention_heads, "key-value groups": self.num_query_groups, **mlp}

    def flops(self, *, num_tokens: int, num_token_pairs: int, is_trained: bool) -> float:
        """Return the operations of a step: gated MLPs, of experts those that a token uses; attention to half the pairs.

        Its inputs always need their gradient: for the word embeddings or, if it is frozen, for the encoder that is
        trained.
        """
        h = self.hidden_size
        heads_width, groups_width = (n * self.head_size for n in (self.num_attention_heads, self.num_query_groups))
        num_mlps, routing = (1, 0) if self.experts is None else (self.experts.num_used, h * self.experts.num_experts)
        mlp = num_mlps * 3 * h * self.ffn_hidden_size + routing
        per_token = 2 * (2 * h * heads_width + 2 * h * groups_width + mlp)
        attention = 2 * 2 * num_token_pairs * heads_width / 2
        head = num_tokens * 2 * h * self.vocab_size
        products = self.num_layers * num_tokens * per_token + head
        return float(passes(inputs=True, weights=is_trained) * products + 3 * self.num_layers * attention)

    def rows(self, module: str) -> Iterator[Row]:
        """Yield every parameter."""
        table = (self.vocab_size, self.hidden_size)

        def row(name: str, component: Component, theirs: str, dims: tuple[int, ...], **place: bool) -> Row:
            part = Part(component=component, name=theirs, shape=dims)
            return Row(module=module, name=f"{module}.{name}", shape=dims, parts=(part,), **place)

        tied = self.tied_embeddings
        yield row("embedding.word_embeddings.weight", *EMBEDDING, table, is_padded=True, is_tied=tied)
        for index in range(self.num_layers):
            yield from attention_layer(
                f"{module}.decoder.layers.{index}",
                module=module,
                layer=index,
                component="language_model",
                theirs=f"layers.{index}",
                names=_ATTENTION | (_MLP if self.experts is None else self.experts.names),
                width=self.hidden_size,
                heads=(self.num_attention_heads, self.num_query_groups, self.head_size),
                ffn=(self.ffn_hidden_size, self.ffn_hidden_size),
                biased=frozenset({"self_attention.linear_qkv"} if self.qkv_bias else ()),
                num_experts=0 if self.experts is None else self.experts.num_experts,
            )
        norm = (self.hidden_size,)
        yield row("decoder.final_layernorm.weight", "language_model", "norm.weight", norm, is_last=True)
        if not tied:
            yield row("output_layer.weight", "lm_head", "weight", table, is_last=True, is_padded=True)
