"""The shapes of a whole model's modules: all that the trainer needs to build them, and that decides which layouts fit.

A shape in hand can be built; what cannot is refused where shapes come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from mimo_bench.layout import LANGUAGE, Layout
from mimo_bench.models.encoder import AudioShape, EncoderShape
from mimo_bench.util import LayoutError, ScenarioError

VisionFamily = Literal["clip", "siglip"]
VisionActivation = Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"]
"""Of the encoder's MLPs, by the names of `transformers`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionShape:
    """A vision transformer over square patches of square images, as the projector reads it: without a final norm.

    CLIP has a class token and a norm before its first layer; SigLIP has neither, and a bias on its patches.
    """

    family: VisionFamily = "clip"
    image_size: int
    patch_size: int
    hidden_size: int
    ffn_hidden_size: int
    num_layers: int
    """Layers that run; those beyond the feature layer are not built, as they would get no gradient."""
    num_attention_heads: int
    activation: VisionActivation = "quick_gelu"
    norm_epsilon: float = 1e-5
    keep_class_token: bool = False
    """Whether the projector sees the class token too, as the select strategy `full` says."""

    @property
    def has_class_token(self) -> bool:
        """Whether a class token stands before the patches."""
        return self.family == "clip"

    @property
    def patches_per_side(self) -> int:
        """Patches in a row; pixels at the right and lower edge that fill no patch are not seen."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches per image."""
        return self.patches_per_side**2

    @property
    def num_positions(self) -> int:
        """Positions per image inside the encoder."""
        return self.num_patches + self.has_class_token

    @property
    def num_image_tokens(self) -> int:
        """Positions per image that leave the encoder: so many language positions an image takes."""
        return self.num_patches + self.keep_class_token

    @property
    def num_tokens(self) -> int:
        """The same, by the name that all encoders share."""
        return self.num_image_tokens

    @property
    def output_size(self) -> int:
        """Width of what the projector reads."""
        return self.hidden_size

    @property
    def projector_bias(self) -> bool:
        """LLaVA's projector has biases."""
        return True

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Of one image as the encoder reads it: channels, height, width."""
        return 3, self.image_size, self.image_size

    @property
    def num_query_groups(self) -> int:
        """Key-value groups of the attention; one per head here."""
        return self.num_attention_heads

    @property
    def split_over_tp(self) -> Mapping[str, int]:
        """What tensor parallelism must divide."""
        return {"attention heads": self.num_attention_heads, "the MLP width": self.ffn_hidden_size}


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
class Experts:
    """What stands in every layer instead of an MLP: a router picks, for each position, some of many MLPs.

    Mixtral's: the logits of the picked ones go through a softmax and weigh their outputs. No position is dropped, and
    no loss balances them.
    """

    num_experts: int
    num_used: int
    """Experts that each position goes through."""


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
        """What tensor parallelism must divide; not the vocabulary, which is padded, nor experts, which stay whole."""
        mlp = {"the MLP width": self.ffn_hidden_size} if self.experts is None else {}
        return {"attention heads": self.num_attention_heads, "key-value groups": self.num_query_groups, **mlp}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """Encoders, each with a two-layer GELU projector, and a language model: LLaVA's or Voxtral's shape, or both."""

    vision: VisionShape | None = None
    audio: AudioShape | None = None
    language: LanguageShape

    @property
    def modules(self) -> Mapping[str, EncoderShape | LanguageShape]:
        """The modules that a layout places, by their names in a scenario."""
        return {**self.encoders, LANGUAGE: self.language}

    @property
    def encoders(self) -> Mapping[str, EncoderShape]:
        """Every module but the language model."""
        return self.own_encoders()

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The token of each encoder, whose positions are filled by what it makes of an item."""
        return self.own_tokens()

    def own_encoders(self) -> dict[str, EncoderShape]:
        """Those of the encoders that no other package brings."""
        known: dict[str, EncoderShape | None] = {"vision": self.vision, "audio": self.audio}
        return {name: shape for name, shape in known.items() if shape is not None}

    def own_tokens(self) -> dict[str, int]:
        """Their tokens."""
        known = {"vision": self.language.image_token_id, "audio": self.language.audio_token_id}
        return {name: token for name, token in known.items() if name in self.encoders and token is not None}

    @property
    def num_item_tokens(self) -> int:
        """Language positions that one item of every encoder takes."""
        return sum(shape.num_tokens for shape in self.encoders.values())

    def check_sequence(self, seq_length: int) -> None:
        """Refuse a sequence length that this model cannot take.

        Raises:
            ScenarioError: too long for its positions or its sliding window, or too short for an image and a text.
        """
        if seq_length > (most := self.language.max_sequence_length):
            raise ScenarioError(f"seq_length = {seq_length}: the model takes at most {most}; use a smaller one")
        if (window := self.language.sliding_window) is not None and seq_length > window:
            raise ScenarioError(
                f"seq_length = {seq_length}: beyond the sliding window of {window} positions attention is local, which "
                f"is not built; use at most {window}"
            )
        if seq_length < (least := self.num_item_tokens + 8):
            taken = " and ".join(f"{name} takes {shape.num_tokens}" for name, shape in self.encoders.items())
            raise ScenarioError(
                f"seq_length = {seq_length}: {taken} positions and the text needs 8 more; use at least {least}"
            )

    def check_modules(self, placed: Iterable[str]) -> None:
        """Refuse a layout that does not place every module of this model, or another one.

        Raises:
            LayoutError: naming the module and those of the model.
        """
        placed, modules = set(placed), self.modules
        if missing := sorted(modules.keys() - placed):
            raise LayoutError(f"module {missing[0]!r} has no grid; the model has {' and '.join(modules)}, place each")
        if unknown := sorted(placed - modules.keys()):
            raise LayoutError(
                f"module {unknown[0]!r} is not in the model, which has {' and '.join(modules)}; remove it"
            )

    def check(self, layout: Layout) -> None:
        """Refuse a layout of other modules, or one whose degrees do not divide this model.

        Raises:
            LayoutError: a module is missing or unknown, or a degree does not divide heads, groups, MLP or layers.
        """
        self.check_modules(layout.modules)
        self.check_degrees(layout)

    def check_degrees(self, layout: Layout) -> None:
        """Refuse degrees that do not divide this model; `layout` places its modules.

        Raises:
            LayoutError: a degree does not divide heads, groups, MLP or layers.
        """
        for name, shape in self.modules.items():
            grid = layout.modules[name]
            for what, size in shape.split_over_tp.items():
                _divides(name, "tp", grid.tp, what, size)
            _divides(name, "pp", grid.pp, "layers", shape.num_layers)
        for name in self.encoders:
            _divides(name, "tp", layout.modules[name].tp, "the projector's width", self.language.hidden_size)
        self._check_experts(layout.language.ep)

    def _check_experts(self, ep: int) -> None:
        if self.language.experts is not None:
            _divides(LANGUAGE, "ep", ep, "experts", self.language.experts.num_experts)
        elif ep > 1:
            raise LayoutError(f"{LANGUAGE}.ep = {ep}: this model has no experts to deal out; use ep = 1")


def _divides(module: str, axis: str, degree: int, what: str, size: int) -> None:
    if size % degree:
        raise LayoutError(f"{module}.{axis} = {degree} does not divide {what} ({size}); use a divisor of {size}")
