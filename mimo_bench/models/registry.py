"""Model families: which shapes a model's modules may have, and who reads and writes a model's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mimo_bench.models.llama.shape import LanguageShape
from mimo_bench.models.vit.shape import VisionShape
from mimo_bench.models.whisper.shape import AudioShape

VisionEncoder = VisionShape
AudioEncoder = AudioShape
LanguageDecoder = LanguageShape

CONFIGURED = ("llava", "voxtral")
"""Values of `model_type` in a config.json, each a folder here whose `hf.py` has `read` and `write`."""


def configured(model_type: str) -> Any:
    """Return the module that reads and writes config.json of a `model_type`."""
    return import_module(f"mimo_bench.models.{model_type}.hf")


def foreign(content: Mapping[str, Any]) -> str | None:
    """Return why a config.json is not what its `model_type` says; None if nothing speaks against it."""
    problem: str | None = configured("llava").foreign(content)
    return problem
