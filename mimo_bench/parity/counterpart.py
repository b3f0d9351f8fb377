"""Which model of `transformers` a shape is: the configuration that the referee is built from. No torch.

scenario -> layout -> trainer -> meters -> record -> [parity] -> report
"""

from __future__ import annotations

from typing import Any

from mimo_bench.layout import LANGUAGE
from mimo_bench.model import LanguageShape, ModelShape, VisionShape
from mimo_bench.model.shape import LinearRope, Llama3Rope


def missing_counterpart(shape: ModelShape) -> str | None:
    """Why no model of `transformers` can be held against this one; None if there is one, a LLaVA."""
    if shape.vision is None:
        return "the referee of transformers is a LLaVA, and this model has no vision encoder"
    if others := sorted(set(shape.modules) - {"vision", LANGUAGE}):
        return f"transformers has no model of vision and language that also reads {' and '.join(others)}"
    return None


def counterpart_config(shape: ModelShape) -> dict[str, Any]:
    """What the config.json of the same LLaVA holds."""
    assert shape.vision is not None, missing_counterpart(shape)
    keeps_all = shape.vision.keep_class_token or not shape.vision.has_class_token
    return {
        "model_type": "llava",
        "vision_config": _vision(shape.vision),
        "text_config": _text(shape.language),
        "image_token_index": shape.language.image_token_id,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": shape.language.tied_embeddings,
        # Only layers that run are counted, so the last of them is the one that is read.
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full" if keeps_all else "default",
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
    return {
        **_family(shape),
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_query_groups,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.max_sequence_length,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_parameters": {"rope_theta": shape.rotary_base, **_scaling(shape.rotary_scaling)},
        "tie_word_embeddings": shape.tied_embeddings,
    }


def _family(shape: LanguageShape) -> dict[str, Any]:
    if shape.experts is not None:
        return {
            "model_type": "mixtral",
            "num_local_experts": shape.experts.num_experts,
            "num_experts_per_tok": shape.experts.num_used,
        }
    # Qwen2 alone has biases; Mistral is LLaMA within its sliding window.
    return {"model_type": "qwen2" if shape.qkv_bias else "llama"}


def _scaling(scaling: LinearRope | Llama3Rope | None) -> dict[str, Any]:
    match scaling:
        case None:
            return {"rope_type": "default"}
        case LinearRope():
            return {"rope_type": "linear", "factor": scaling.factor}
        case Llama3Rope():
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
            }
