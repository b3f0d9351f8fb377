"""LLaVA's config.json: `LlavaConfig` in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mimo_bench.layout import LANGUAGE
from mimo_bench.models.hf.config_section import Section, check_token
from mimo_bench.models.llama.hf import check_repeated, read_language, write_language
from mimo_bench.models.shape import ModelShape
from mimo_bench.models.vit.hf import read_vision, write_layers, write_vision

_ORIGINAL = re.compile(r"llava_(?!next|onevision).+")
"""Values of `model_type` in files of the original LLaVA repository."""


def foreign(content: Mapping[str, Any]) -> str | None:
    """Return how a file tells that it is of the original LLaVA repository; None if it is not.

    `transformers` adds tables of defaults to such a file when it saves it again.
    """
    model_type = content.get("model_type")
    is_named = isinstance(model_type, str) and _ORIGINAL.fullmatch(model_type)
    key = next((key for key in content if key.startswith("mm_")), None) if not is_named else "model_type"
    if key is None:
        return None
    return (
        f"{key} = {json.dumps(content[key])}: the file is of the original LLaVA repository; `transformers` ignores its "
        "sizes and builds a model of 7B by default; use a checkpoint that was converted for `transformers`, with a "
        "text_config and a vision_config of its own"
    )


def read(top: Section) -> ModelShape:
    """Return the model that a config.json describes."""
    vision, text = top.section("vision_config"), top.section("text_config")
    top.only("projector_hidden_act", "gelu", default="gelu")
    top.only("multimodal_projector_bias", True, default=True)
    top.take("vocab_size")  # of old files: the language model's own counts
    tied = top.flag("tie_word_embeddings", default=False)
    key = "image_token_id" if "image_token_id" in top else "image_token_index"
    image_token = top.integer(key, default=32000)
    language = read_language(text, tied=tied, image_token_id=image_token)
    check_repeated(top, language)
    check_token(top, key, image_token, vocab_size=language.vocab_size)
    shape = ModelShape(vision=read_vision(vision, top), language=language)
    for section in (vision, text):
        section.finish()
    return shape


def as_built(content: dict[str, Any], shape: ModelShape) -> dict[str, Any]:
    """Return a config.json without the parts that are not built: the feature layer is the last."""
    assert shape.vision is not None
    vision = {**content["vision_config"], **write_layers(shape.vision)}
    return {**content, "vision_feature_layer": -1, "vision_config": vision}


def write(shape: ModelShape) -> dict[str, Any] | None:
    """Return the config.json that `read` reads as `shape`; None for a model of other modules.

    It has only the layers that are built: the feature layer is the last.
    """
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
        "vision_config": write_vision(shape.vision),
        "text_config": write_language(shape.language),
    }
