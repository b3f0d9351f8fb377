"""A model's shape from the config.json that `transformers` writes, and back.

Neither torch nor `transformers` is imported. A key that a file leaves out has the default of `transformers` 5; a
key that asks for what is not built is refused with file, key, value and remedy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mimo_bench.models.hf.config_section import Section
from mimo_bench.models.hf.safetensors import refuse_pointer
from mimo_bench.models.registry import CONFIGURED, configured, foreign
from mimo_bench.models.shape import ModelShape
from mimo_bench.util import ScenarioError, WeightsError


def read_model_shape(path: Path) -> ModelShape:
    """Return the shape that a config.json describes.

    Raises:
        ScenarioError: the file cannot be read, or asks for what is not built; with a line for each key.
    """
    content = _read(path)
    if (problem := foreign(content)) is not None:
        raise ScenarioError(f"{path}: {problem}")
    top = Section(path, content)
    shape: ModelShape = configured(top.kind(*CONFIGURED)).read(top)
    top.finish()
    top.end()
    return shape


def config_of(shape: ModelShape) -> dict[str, Any] | None:
    """Return a config.json that `transformers` reads as this model; None if it has no such model."""
    written = (configured(model_type).write(shape) for model_type in CONFIGURED)
    return next((config for config in written if config is not None), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        refuse_pointer(path)
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from None
    except WeightsError as error:
        raise ScenarioError(str(error)) from None
    except ValueError as error:
        raise ScenarioError(f"{path}: not valid JSON: {error}; correct it there, or copy the file again") from None
    if not isinstance(content, dict):
        raise ScenarioError(f"{path}: holds no table; use what save_pretrained of `transformers` writes")
    return content
