"""The configuration that the referee is built from describes the very model that is trained, or says why none can."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mimo_bench.models import PRESETS, ModelShape, read_model_shape
from mimo_bench.models.hf.config import config_of
from mimo_bench.models.llama.shape import LinearRope, Llama3Rope
from mimo_bench.models.llava.counterpart import missing_counterpart
from tests.support.checkpoints import CONFIGS

LLAVAS = {name: shape for name, shape in PRESETS.items() if missing_counterpart(shape) is None}
TINY = PRESETS["llava-tiny"]
assert TINY.vision is not None
LLAMA3 = Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
SHAPES = {
    **LLAVAS,
    "class-token-kept": replace(TINY, vision=replace(TINY.vision, keep_class_token=True)),
    "positions-squeezed": replace(TINY, language=replace(TINY.language, rotary_scaling=LinearRope(factor=2.0))),
    "positions-stretched": replace(TINY, language=replace(TINY.language, rotary_scaling=LLAMA3)),
    "read": read_model_shape(CONFIGS / "clip_llama.json"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_configuration_reads_back_as_the_same_shape(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_of(SHAPES[name])), encoding="utf-8")
    assert read_model_shape(path) == SHAPES[name]


def test_every_preset_of_vision_and_language_has_a_counterpart() -> None:
    assert {"llava-tiny", "llava-1.5-7b", "siglip-qwen2", "siglip-qwen2-tiny"} <= set(LLAVAS)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (PRESETS["voxtral-tiny"], "has no vision encoder"),
        (PRESETS["llava-audio-tiny"], "also reads audio"),
    ],
)
def test_a_model_without_a_counterpart_is_told_by_what_it_reads(shape: ModelShape, words: str) -> None:
    reason = missing_counterpart(shape)
    assert reason is not None
    assert words in reason
