"""A model's shape from the config.json that `transformers` writes: `LlavaConfig` or `VoxtralConfig` in, ModelShape out.

config.json -> [shape] -> trainer. Neither torch nor `transformers` is imported. What a file leaves out has the default
of `transformers` 5; what it asks for and we do not build is refused with file, key, value and remedy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mimo_bench.models.hf.audio_config import read_audio
from mimo_bench.models.hf.config_section import Section
from mimo_bench.models.shape import Experts, LanguageShape, LinearRope, Llama3Rope, ModelShape, VisionShape
from mimo_bench.util import ScenarioError

_VISION_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip_vision_model": {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
_LANGUAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    },
    "mistral": {
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    },
    "mixtral": {
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
    },
    "qwen2": {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    },
}
"""Where model types differ; what they share is written where it is read."""
_VOXTRAL_TEXT: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 131072,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 30,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e8,
    "head_dim": 128,
}
"""What a Voxtral's language model has unless its file says otherwise."""


def read_model_shape(path: Path) -> ModelShape:
    """The shape that a config.json describes.

    Raises:
        ScenarioError: the file cannot be read, or asks for what is not built.
    """
    top = Section(path, _read(path))
    shape = _llava(top) if top.only("model_type", "llava", "voxtral") == "llava" else _voxtral(top)
    top.finish()
    return shape


def _llava(top: Section) -> ModelShape:
    vision, text = top.section("vision_config"), top.section("text_config")
    top.only("projector_hidden_act", "gelu", default="gelu")
    top.only("multimodal_projector_bias", True, default=True)
    top.take("vocab_size", None)  # of old files: the language model's own counts
    tied = top.flag("tie_word_embeddings", default=False)
    key = "image_token_id" if "image_token_id" in top else "image_token_index"
    image_token = top.integer(key, default=32000)
    language = _language(text, tied=tied, image_token_id=image_token)
    _check_token(top, key, image_token, vocab_size=language.vocab_size)
    shape = ModelShape(vision=_vision(vision, top), language=language)
    for section in (vision, text):
        section.finish()
    return shape


def _voxtral(top: Section) -> ModelShape:
    audio, text = top.section("audio_config"), top.section("text_config", defaults=_VOXTRAL_TEXT)
    top.only("projector_hidden_act", "gelu", default="gelu")
    for key in ("hidden_size", "vocab_size"):
        top.take(key, None)  # the language model's own count
    tied = top.flag("tie_word_embeddings", default=False)
    audio_token = top.integer("audio_token_id")
    language = _language(text, tied=tied, audio_token_id=audio_token)
    _check_token(top, "audio_token_id", audio_token, vocab_size=language.vocab_size)
    shape = ModelShape(audio=read_audio(audio), language=language)
    for section in (audio, text):
        section.finish()
    return shape


def _check_token(top: Section, key: str, token: int, *, vocab_size: int) -> None:
    if not 2 <= token < vocab_size:
        remedy = f"samples need words below it, and the vocabulary ends at {vocab_size}; use 2 to {vocab_size - 1}"
        top.refuse(key, remedy, token)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ScenarioError(f"{path}: not valid JSON: {error}; correct it there, or copy the file again") from None
    if not isinstance(content, dict):
        raise ScenarioError(f"{path}: holds no table; use what save_pretrained of `transformers` writes")
    return content


def _vision(section: Section, top: Section) -> VisionShape:
    kind = section.only("model_type", *_VISION_DEFAULTS)
    defaults = _VISION_DEFAULTS[kind]
    section.only("num_channels", 3, default=3)
    # Neither head nor vocabulary is part of what LLaVA reads.
    section.take("vision_use_head", None)
    section.take("vocab_size", None)
    hidden_size = section.integer("hidden_size", 768)
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


def _language(
    section: Section, *, tied: bool, image_token_id: int | None = None, audio_token_id: int | None = None
) -> LanguageShape:
    kind = section.only("model_type", *_LANGUAGE_DEFAULTS)
    defaults = _LANGUAGE_DEFAULTS[kind]
    section.only("hidden_act", "silu", default="silu")
    if kind == "llama":
        section.only("attention_bias", False, default=False)
        section.only("mlp_bias", False, default=False)
    hidden_size = section.integer("hidden_size", 4096)
    num_layers = section.integer("num_hidden_layers", 32)
    heads = section.integer("num_attention_heads", 32)
    groups = section.optional_integer("num_key_value_heads", defaults["num_key_value_heads"]) or heads
    if heads % groups:
        section.refuse("num_key_value_heads", f"does not divide the attention heads; use a divisor of {heads}", groups)
    max_sequence_length = section.integer("max_position_embeddings", defaults["max_position_embeddings"])
    base, scaling = _rope(section, max_sequence_length, default_base=defaults["rope_theta"])
    return LanguageShape(
        vocab_size=section.integer("vocab_size", defaults["vocab_size"]),
        hidden_size=hidden_size,
        ffn_hidden_size=section.integer("intermediate_size", defaults["intermediate_size"]),
        num_layers=num_layers,
        num_attention_heads=heads,
        num_query_groups=groups,
        head_size=_head_size(section, hidden_size, heads),
        max_sequence_length=max_sequence_length,
        sliding_window=_sliding_window(section, kind, num_layers),
        rotary_base=base,
        rotary_scaling=scaling,
        norm_epsilon=section.number("rms_norm_eps", defaults["rms_norm_eps"]),
        qkv_bias=kind == "qwen2",
        # As `transformers` does: either table may ask for it.
        tied_embeddings=section.flag("tie_word_embeddings", default=False) or tied,
        image_token_id=image_token_id,
        audio_token_id=audio_token_id,
        experts=_experts(section) if kind == "mixtral" else None,
    )


def _experts(section: Section) -> Experts:
    """Mixtral's experts, routed without noise and trained by no loss but the answer's."""
    section.only("router_jitter_noise", 0, default=0)
    section.only("output_router_logits", False, default=False)
    # Weighs a loss that only those logits have.
    section.take("router_aux_loss_coef", None)
    num_experts, num_used = section.integer("num_local_experts", 8), section.integer("num_experts_per_tok", 2)
    if not 2 <= num_used <= num_experts:
        remedy = f"a router learns from the weights that it gives to several; use 2 to {num_experts}"
        section.refuse("num_experts_per_tok", remedy, num_used)
    return Experts(num_experts=num_experts, num_used=num_used)


def _head_size(section: Section, hidden_size: int, heads: int) -> int:
    size = section.optional_integer("head_dim")
    if size is None:
        if hidden_size % heads:
            remedy = f"does not divide the hidden size; use a divisor of {hidden_size}, or give head_dim"
            section.refuse("num_attention_heads", remedy, heads)
        size = hidden_size // heads
    if size % 2:
        section.refuse("head_dim", "rotary positions turn pairs; use an even size", size)
    return size


def _sliding_window(section: Section, kind: str, num_layers: int) -> int | None:
    """The window of those layers that have one; None if no layer does."""
    if kind == "llama":
        return None
    window = section.optional_integer("sliding_window", None if kind == "mixtral" else 4096)
    if kind in ("mistral", "mixtral"):
        return window
    is_used = section.flag("use_sliding_window", default=False)
    first = section.take("max_window_layers", 28)
    if (kinds := section.take("layer_types", None)) is None:
        has_window = is_used and first < num_layers
    else:
        if unknown := sorted(set(kinds) - {"full_attention", "sliding_attention"}):
            section.refuse("layer_types", f"{unknown[0]!r} is not built; use 'full_attention'")
        has_window = is_used and "sliding_attention" in kinds
    return window if has_window else None


def _rope(
    section: Section, max_sequence_length: int, *, default_base: float
) -> tuple[float, LinearRope | Llama3Rope | None]:
    """Base and scaling of the rotary positions, in the spelling of `transformers` 5 or 4."""
    key = "rope_scaling" if section.take("rope_scaling", None) else "rope_parameters"
    base = section.number("rope_theta", default_base)
    section.take("rope_parameters", None)
    if key not in section:
        return base, None
    rope = section.section(key)
    base = rope.number("rope_theta", base)
    rope.only("partial_rotary_factor", 1, None, default=None)
    spelling = "rope_type" if "rope_type" in rope else "type"
    rope.take("type", None)
    kind = rope.only(spelling, "default", "linear", "llama3", default="default")
    scaling: LinearRope | Llama3Rope | None = None
    if kind == "linear":
        scaling = LinearRope(factor=rope.number("factor"))
    elif kind == "llama3":
        scaling = Llama3Rope(
            factor=rope.number("factor"),
            low_freq_factor=rope.number("low_freq_factor"),
            high_freq_factor=rope.number("high_freq_factor"),
            original_max_position_embeddings=rope.integer("original_max_position_embeddings", max_sequence_length),
        )
        if scaling.high_freq_factor <= scaling.low_freq_factor:
            remedy = f"use a number above low_freq_factor = {scaling.low_freq_factor:g}"
            rope.refuse("high_freq_factor", remedy)
    rope.finish()
    return base, scaling
