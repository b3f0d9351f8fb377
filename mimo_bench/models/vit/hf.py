"""CLIP and SigLIP in a config.json of `transformers`: `vision_config` in and out."""

from __future__ import annotations

from typing import Any

from mimo_bench.models.hf.config_section import Section
from mimo_bench.models.vit.shape import VisionShape

_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip_vision_model": {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}


def read_vision(section: Section, top: Section) -> VisionShape:
    """Return the encoder that a table describes, up to its feature layer.

    Raises:
        ScenarioError: it asks for what is not built.
    """
    kind = section.kind(*_DEFAULTS)
    defaults = _DEFAULTS[kind]
    section.only("num_channels", 3, default=3)
    # Neither head nor vocabulary is part of what LLaVA reads.
    section.take("vision_use_head")
    section.take("vocab_size")
    hidden_size = section.integer("hidden_size", 768)
    section.only("embed_dim", None, hidden_size)  # the name that CLIP's code has for it
    heads = section.integer("num_attention_heads", 12)
    if hidden_size % heads:
        section.refuse("num_attention_heads", f"does not divide the hidden size; use a divisor of {hidden_size}", heads)
    image_size, patch_size = section.integer("image_size", 224), section.integer("patch_size", defaults["patch_size"])
    if patch_size > image_size:
        section.refuse("patch_size", f"is larger than the image; use at most {image_size}", patch_size)
    return VisionShape(
        family="clip" if kind == "clip_vision_model" else "siglip",
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=hidden_size,
        ffn_hidden_size=section.integer("intermediate_size", 3072),
        num_layers=_layers_to_run(top, section.integer("num_hidden_layers", 12)),
        num_attention_heads=heads,
        activation=section.only(
            "hidden_act", "quick_gelu", "gelu", "gelu_pytorch_tanh", default=defaults["hidden_act"]
        ),
        norm_epsilon=section.number("layer_norm_eps", defaults["layer_norm_eps"]),
        keep_class_token=_keeps_class_token(top, kind),
    )


def _layers_to_run(top: Section, num_layers: int) -> int:
    """Layers up to the feature layer, which counts the embeddings as 0 or the last layer as -1."""
    layer = top.take("vision_feature_layer", -2)
    if type(layer) is not int:
        top.refuse("vision_feature_layer", "features of several layers are not built; use one whole number")
        return num_layers
    count: int = layer if layer >= 0 else num_layers + 1 + layer
    if not 1 <= count <= num_layers:
        top.refuse("vision_feature_layer", f"is no layer; use 1 to {num_layers}, or -{num_layers} to -1", layer)
    return count


def _keeps_class_token(top: Section, kind: str) -> bool:
    if kind == "clip_vision_model":
        return bool(top.only("vision_feature_select_strategy", "default", "full", default="default") == "full")
    # `default` drops the first position whatever it holds: of SigLIP that is a patch.
    top.only("vision_feature_select_strategy", "full", default="default", why="would drop SigLIP's first patch")
    return False


def write_vision(shape: VisionShape) -> dict[str, Any]:
    """Return the table that `read_vision` reads as `shape`."""
    return {
        "model_type": f"{shape.family}_vision_model",
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_attention_heads": shape.num_attention_heads,
        "hidden_act": shape.activation,
        "layer_norm_eps": shape.norm_epsilon,
        **write_layers(shape),
    }


def write_layers(shape: VisionShape) -> dict[str, Any]:
    """Return the keys of a table that has the layers which are built, and no head."""
    head = {"vision_use_head": False} if shape.family == "siglip" else {}
    return {"num_hidden_layers": shape.num_layers, **head}
