"""Random checkpoints as `transformers` saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, VoxtralConfig, VoxtralForConditionalGeneration
from transformers.utils import logging

CONFIGS = Path(__file__).parents[1] / "configs"

_CLASSES: dict[str, tuple[Any, Any]] = {
    "llava": (LlavaConfig, LlavaForConditionalGeneration),
    "voxtral": (VoxtralConfig, VoxtralForConditionalGeneration),
}


def load(place: Path) -> Any:
    """Return the model of `transformers` that is stored in `place`."""
    kind = json.loads((place / "config.json").read_text(encoding="utf-8"))["model_type"]
    return _CLASSES[kind][1].from_pretrained(place, local_files_only=True)


def save_random(config: Path, place: Path, *, seed: int = 5, scale: float = 1.0) -> Path:
    """Save a model of `config` in `place`, every number of it drawn: norms and biases that are equal could be mixed up.

    Args:
        config: a config.json.
        place: a new directory.
        seed: of the draw.
        scale: deviation of all numbers; norms lie about 1.
    """
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    fields = json.loads(config.read_text(encoding="utf-8"))
    described_by, built_by = _CLASSES[fields["model_type"]]
    model = built_by(described_by.from_dict(fields))
    for name, parameter in model.named_parameters():
        is_norm = (
            name.endswith("norm.weight") or "layer_norm" in name or "layrnorm" in name or "layernorm.weight" in name
        )
        torch.nn.init.normal_(parameter, mean=float(is_norm and name.endswith("weight")), std=scale)
    model.save_pretrained(place)
    return place
