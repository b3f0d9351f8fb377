"""Whisper's encoder in a config.json of `transformers`: `audio_config` in and out."""

from __future__ import annotations

from typing import Any

from mimo_bench.models.hf.config_section import Section
from mimo_bench.models.whisper.shape import AudioShape


def read_audio(section: Section) -> AudioShape:
    """Return the encoder that a table describes, with the positions that the projector reads at once.

    Raises:
        ScenarioError: it asks for what is not built.
    """
    section.kind("voxtral_encoder", default="voxtral_encoder")
    section.only("activation_function", "gelu", default="gelu")
    section.only("scale_embedding", False, default=False)
    for key in ("activation_dropout", "layerdrop"):
        section.only(key, 0, default=0)
    section.take("vocab_size", None)  # of Whisper's decoder
    hidden_size = section.integer("hidden_size", 1280)
    heads = section.integer("num_attention_heads", 20)
    if hidden_size % heads:
        section.refuse("num_attention_heads", f"does not divide the hidden size; use a divisor of {hidden_size}", heads)
        section.take("head_dim")
    else:
        section.only("head_dim", hidden_size // heads, default=hidden_size // heads)
    section.only("num_key_value_heads", heads, default=heads)
    ffn_hidden_size = section.integer("intermediate_size", 5120)
    num_positions = section.integer("max_source_positions", 1500)
    # As many positions lie side by side as the MLP is wide: so does Voxtral's projector read them.
    if ffn_hidden_size % hidden_size:
        remedy = f"the projector joins whole positions until they are as wide; use a multiple of {hidden_size}"
        section.refuse("intermediate_size", remedy, ffn_hidden_size)
    num_stacked = max(1, ffn_hidden_size // hidden_size)
    if num_positions % num_stacked:
        remedy = f"{num_stacked} positions become one token; use a multiple of {num_stacked}"
        section.refuse("max_source_positions", remedy, num_positions)
        num_positions = num_stacked
    return AudioShape(
        num_mels=section.integer("num_mel_bins", 128),
        num_positions=num_positions,
        hidden_size=hidden_size,
        ffn_hidden_size=ffn_hidden_size,
        num_layers=section.integer("num_hidden_layers", 32),
        num_attention_heads=heads,
        num_stacked=num_stacked,
    )


def write_audio(shape: AudioShape) -> dict[str, Any]:
    """Return the table that `read_audio` reads as `shape`."""
    return {
        "model_type": "voxtral_encoder",
        "num_mel_bins": shape.num_mels,
        "max_source_positions": shape.num_positions,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
    }
