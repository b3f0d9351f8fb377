"""Voxtral's config.json: `VoxtralConfig` in and out."""

from __future__ import annotations

from typing import Any

from mimo_bench.layout import LANGUAGE
from mimo_bench.models.hf.config_section import Section, check_token
from mimo_bench.models.llama.hf import check_repeated, read_language, write_language
from mimo_bench.models.shape import ModelShape
from mimo_bench.models.whisper.hf import read_audio, write_audio

_TEXT: dict[str, Any] = {
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
"""Defaults of the language model."""


def read(top: Section) -> ModelShape:
    """Return the model that a config.json describes."""
    audio, text = top.section("audio_config"), top.section("text_config", defaults=_TEXT)
    top.only("projector_hidden_act", "gelu", default="gelu")
    top.take("vocab_size")  # the language model's own counts
    tied = top.flag("tie_word_embeddings", default=False)
    audio_token = top.integer("audio_token_id")
    language = read_language(text, tied=tied, audio_token_id=audio_token)
    check_repeated(top, language)
    check_token(top, "audio_token_id", audio_token, vocab_size=language.vocab_size)
    shape = ModelShape(audio=read_audio(audio), language=language)
    for section in (audio, text):
        section.finish()
    return shape


def as_built(content: dict[str, Any], shape: ModelShape) -> dict[str, Any]:
    """Return `content`, all of which is built."""
    return content


def write(shape: ModelShape) -> dict[str, Any] | None:
    """Return the config.json that `read` reads as `shape`; None for a model of other modules."""
    if shape.audio is None or set(shape.modules) != {"audio", LANGUAGE}:
        return None
    return {
        "architectures": ["VoxtralForConditionalGeneration"],
        "model_type": "voxtral",
        "audio_token_id": shape.language.audio_token_id,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": shape.language.tied_embeddings,
        "audio_config": write_audio(shape.audio),
        "text_config": write_language(shape.language),
    }
