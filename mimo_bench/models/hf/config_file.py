"""A model's config.json from its shape, for models that came without one."""

from __future__ import annotations

from typing import Any

from mimo_bench.layout import LANGUAGE
from mimo_bench.models import AudioShape, LanguageShape, ModelShape, VisionShape
from mimo_bench.models.shape import LinearRope, Llama3Rope


def config_of(shape: ModelShape) -> dict[str, Any] | None:
    """What `transformers` reads as this model, and what `read_model_shape` reads as this shape.

    Only the layers that are built: the feature layer is the last. None for a model that is neither LLaVA nor Voxtral.
    """
    if shape.audio is not None and set(shape.modules) == {"audio", LANGUAGE}:
        return _voxtral(shape.audio, shape.language)
    if shape.vision is None or set(shape.modules) != {"vision", LANGUAGE}:
        return None
    drops_class_token = shape.vision.has_class_token and not shape.vision.keep_class_token
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": shape.language.image_token_id,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default" if drops_class_token else "full",
        "tie_word_embeddings": shape.language.tied_embeddings,
        "vision_config": _vision(shape.vision),
        "text_config": _text(shape.language),
    }


def _voxtral(audio: AudioShape, language: LanguageShape) -> dict[str, Any]:
    return {
        "architectures": ["VoxtralForConditionalGeneration"],
        "model_type": "voxtral",
        "audio_token_id": language.audio_token_id,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": language.tied_embeddings,
        "audio_config": {
            "model_type": "voxtral_encoder",
            "num_mel_bins": audio.num_mels,
            "max_source_positions": audio.num_positions,
            "hidden_size": audio.hidden_size,
            "intermediate_size": audio.ffn_hidden_size,
            "num_hidden_layers": audio.num_layers,
            "num_attention_heads": audio.num_attention_heads,
        },
        "text_config": _text(language),
    }


def _vision(shape: VisionShape) -> dict[str, Any]:
    return {
        "model_type": f"{shape.family}_vision_model",
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "hidden_act": shape.activation,
        "layer_norm_eps": shape.norm_epsilon,
    }


def _text(shape: LanguageShape) -> dict[str, Any]:
    kind = "qwen2" if shape.qkv_bias else "llama" if shape.sliding_window is None else "mistral"
    special: dict[str, Any] = {}
    if shape.experts is not None:
        kind = "mixtral"
        special = {
            "num_local_experts": shape.experts.num_experts,
            "num_experts_per_tok": shape.experts.num_used,
            "sliding_window": shape.sliding_window,
        }
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
        "rope_parameters": _rope(shape),
        "tie_word_embeddings": shape.tied_embeddings,
    }


def _rope(shape: LanguageShape) -> dict[str, Any]:
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
