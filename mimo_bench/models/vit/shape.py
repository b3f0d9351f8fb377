"""Vision transformers of CLIP and SigLIP in integers: shape, parameters and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mimo_bench.models.table import Part, Row, attention_layer, layer_flops, passes

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
        """True if a class token precedes the patches."""
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
        """Language positions that one image takes."""
        return self.num_patches + self.keep_class_token

    @property
    def num_tokens(self) -> int:
        """Language positions that one item takes."""
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
        """Channels, height and width of one image as the encoder reads it."""
        return 3, self.image_size, self.image_size

    @property
    def num_query_groups(self) -> int:
        """Key-value groups of the attention; one per head here."""
        return self.num_attention_heads

    @property
    def split_over_tp(self) -> Mapping[str, int]:
        """Sizes that tensor parallelism must divide."""
        return {"attention heads": self.num_attention_heads, "the MLP width": self.ffn_hidden_size}

    @property
    def kept_before_layers(self) -> int:
        """Patches with their positions."""
        return 1

    def flops_per_item(self, *, is_trained: bool) -> int:
        """Return the operations of one image; pixels need no gradient."""
        patches = self.num_patches * 2 * 3 * self.patch_size**2 * self.hidden_size
        layers = layer_flops(self, self.num_positions)
        return (
            passes(inputs=False, weights=is_trained) * patches + passes(inputs=is_trained, weights=is_trained) * layers
        )

    def encoder_spec(self, build: Any) -> Any:
        """Return the encoder on one rank."""
        # torch, which a shape does without.
        from mimo_bench.models.vit.module import vision_encoder

        return vision_encoder(self, build)

    def rows(self, module: str) -> Iterator[Row]:
        """Yield every parameter."""
        width, patch, ours = self.hidden_size, self.patch_size, f"{module}.encoder.vit"

        def row(name: str, theirs: str, *dims: int, stored: tuple[int, ...] | None = None) -> Row:
            part = Part(component="vision_tower", name=theirs, shape=stored or dims)
            return Row(module=module, name=f"{ours}.{name}", shape=dims, parts=(part,))

        if self.has_class_token:
            yield row("class_token", "embeddings.class_embedding", 1, 1, width, stored=(width,))
            for kind in ("weight", "bias"):
                yield row(f"ln_pre.{kind}", f"pre_layrnorm.{kind}", width)
        yield row("conv1.weight", "embeddings.patch_embedding.weight", width, 3, patch, patch)
        if not self.has_class_token:
            yield row("conv1.bias", "embeddings.patch_embedding.bias", width)
        yield row("position_embeddings.weight", "embeddings.position_embedding.weight", self.num_positions, width)
        for index in range(self.num_layers):
            yield from attention_layer(
                f"{ours}.decoder.layers.{index}",
                module=module,
                layer=index,
                component="vision_tower",
                theirs=f"encoder.layers.{index}",
                names=_NAMES,
                width=width,
                heads=(self.num_attention_heads, self.num_query_groups, width // self.num_attention_heads),
                ffn=(self.ffn_hidden_size,),
                biased=frozenset(_NAMES),
            )


_NAMES = {
    "input_layernorm": ("layer_norm1",),
    "self_attention.linear_proj": ("self_attn.out_proj",),
    "self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "pre_mlp_layernorm": ("layer_norm2",),
    "mlp.linear_fc1": ("mlp.fc1",),
    "mlp.linear_fc2": ("mlp.fc2",),
}
