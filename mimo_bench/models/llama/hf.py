"""LLaMA, Mistral, Mixtral and Qwen2 in a config.json of `transformers`: `text_config` in and out."""

from __future__ import annotations

from typing import Any

from mimo_bench.models.hf.config_section import Section
from mimo_bench.models.llama.shape import LanguageShape, LinearRope, Llama3Rope
from mimo_bench.models.mixtral.hf import read_experts, write_experts

_DEFAULTS: dict[str, dict[str, Any]] = {
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
"""Defaults in which model types differ; those that they share are written where they are read."""


def read_language(
    section: Section, *, tied: bool, image_token_id: int | None = None, audio_token_id: int | None = None
) -> LanguageShape:
    """Return the decoder that a table describes.

    Raises:
        ScenarioError: it asks for what is not built.
    """
    kind = section.kind(*_DEFAULTS)
    defaults = _DEFAULTS[kind]
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
        experts=read_experts(section) if kind == "mixtral" else None,
    )


def check_repeated(top: Section, language: LanguageShape) -> None:
    """Refuse sizes next to `text_config` that contradict it: such a table was filled with defaults."""
    sizes = {
        "hidden_size": language.hidden_size,
        "intermediate_size": language.ffn_hidden_size,
        "num_attention_heads": language.num_attention_heads,
        "num_hidden_layers": language.num_layers,
        "num_key_value_heads": language.num_query_groups,
    }
    for key, size in sizes.items():
        top.only(key, None, size, why="contradicts text_config")


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


def write_language(shape: LanguageShape) -> dict[str, Any]:
    """Return the table that `read_language` reads as `shape`."""
    kind = "qwen2" if shape.qkv_bias else "llama" if shape.sliding_window is None else "mistral"
    special: dict[str, Any] = {}
    if shape.experts is not None:
        kind = "mixtral"
        special = write_experts(shape.experts) | {"sliding_window": shape.sliding_window}
    elif kind == "mistral":
        special = {"sliding_window": shape.sliding_window}
    elif kind == "qwen2" and shape.sliding_window is not None:
        special = {
            "sliding_window": shape.sliding_window,
            "use_sliding_window": True,
            "layer_types": ["sliding_attention"] * shape.num_layers,
        }
    return special | {
        "model_type": kind,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_query_groups,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.max_sequence_length,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_parameters": _write_rope(shape),
        "tie_word_embeddings": shape.tied_embeddings,
    }


def _write_rope(shape: LanguageShape) -> dict[str, Any]:
    base = {"rope_theta": shape.rotary_base}
    match shape.rotary_scaling:
        case None:
            return base | {"rope_type": "default"}
        case LinearRope(factor=factor):
            return base | {"rope_type": "linear", "factor": factor}
        case Llama3Rope() as scaling:
            return base | {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
            }
