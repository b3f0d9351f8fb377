"""What a model is, in integers: the shapes that decide which layouts fit it. No torch.

scenario -> layout -> trainer: the scenario names a model, layouts are checked against its shape, the trainer builds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mimo_bench.errors import LayoutError
from mimo_bench.layout import LANGUAGE, Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionShape:
    """A CLIP vision transformer: square images, square patches, a class token that the projector never sees."""

    image_size: int
    patch_size: int
    hidden_size: int
    ffn_hidden_size: int
    num_layers: int
    """Layers that run; those beyond the feature layer are not built, as they would get no gradient."""
    num_attention_heads: int
    norm_epsilon: float = 1e-5

    @property
    def num_patches(self) -> int:
        """Patches per image, which is also the number of language positions an image takes."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_query_groups(self) -> int:
        """Key-value groups of the attention; one per head here."""
        return self.num_attention_heads


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageShape:
    """A LLaMA-shaped decoder: rotary positions, RMSNorm, SwiGLU, grouped-query attention, untied embeddings."""

    vocab_size: int
    hidden_size: int
    ffn_hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_query_groups: int
    max_sequence_length: int
    rotary_base: float = 10000.0
    norm_epsilon: float = 1e-5
    image_token_id: int
    """The token whose positions an image's patches fill."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """A LLaVA-shaped model: vision transformer, two-layer GELU projector, language model."""

    vision: VisionShape
    language: LanguageShape

    @property
    def modules(self) -> Mapping[str, VisionShape | LanguageShape]:
        """The modules that a layout places, by their names in a scenario."""
        return {"vision": self.vision, LANGUAGE: self.language}

    def check(self, layout: Layout) -> None:
        """Refuse a layout whose degrees do not divide this model.

        Raises:
            LayoutError: a module is missing or unknown, or a degree does not divide heads, groups, MLP, vocabulary
                or layers.
        """
        if missing := sorted(set(self.modules) - set(layout.modules)):
            raise LayoutError(f"module {missing[0]!r} has no grid; the model has {sorted(self.modules)}, place each")
        if unknown := sorted(set(layout.modules) - set(self.modules)):
            raise LayoutError(f"module {unknown[0]!r} is not in the model, which has {sorted(self.modules)}; remove it")
        for name, shape in self.modules.items():
            grid = layout.modules[name]
            _divides(name, "tp", grid.tp, "attention heads", shape.num_attention_heads)
            _divides(name, "tp", grid.tp, "key-value groups", shape.num_query_groups)
            _divides(name, "tp", grid.tp, "the MLP width", shape.ffn_hidden_size)
            _divides(name, "pp", grid.pp, "layers", shape.num_layers)
        _divides("vision", "tp", layout.modules["vision"].tp, "the projector's width", self.language.hidden_size)
        _divides(LANGUAGE, "tp", layout.language.tp, "the vocabulary", self.language.vocab_size)


def _divides(module: str, axis: str, degree: int, what: str, size: int) -> None:
    if size % degree:
        raise LayoutError(f"{module}.{axis} = {degree} does not divide {what} ({size}); use a divisor of {size}")


# Shapes of llava-hf/llava-1.5-7b-hf: CLIP-L/14 at 336 pixels read one layer before its last, Vicuna-7B v1.5.
_LLAVA_7B = ModelShape(
    vision=VisionShape(
        image_size=336,
        patch_size=14,
        hidden_size=1024,
        ffn_hidden_size=4096,
        num_layers=23,
        num_attention_heads=16,
    ),
    language=LanguageShape(
        vocab_size=32064,
        hidden_size=4096,
        ffn_hidden_size=11008,
        num_layers=32,
        num_attention_heads=32,
        num_query_groups=32,
        max_sequence_length=4096,
        image_token_id=32000,
    ),
)

PRESETS: dict[str, ModelShape] = {
    # Small enough for eight ranks on two cores; every TP and PP up to 4 divides it.
    "llava-tiny": ModelShape(
        vision=VisionShape(
            image_size=16,
            patch_size=4,
            hidden_size=64,
            ffn_hidden_size=128,
            num_layers=4,
            num_attention_heads=4,
        ),
        language=LanguageShape(
            vocab_size=256,
            hidden_size=64,
            ffn_hidden_size=128,
            num_layers=4,
            num_attention_heads=8,
            num_query_groups=4,
            max_sequence_length=512,
            image_token_id=255,
        ),
    ),
    "llava-1.5-7b": _LLAVA_7B,
    # The full widths with 8 of 32 language layers: 18 bytes a parameter of this one fit a single 80 GB GPU.
    "llava-1.5-7b-8of32": replace(_LLAVA_7B, language=replace(_LLAVA_7B.language, num_layers=8)),
}
