"""Checks that a saved processor belongs to a model, from the files that `transformers` wrote. No torch.

A processor whose files leave something open is checked by the ranks, which load it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimo_bench.models import ModelShape
from mimo_bench.util import ScenarioError

_REMEDY = (
    "take the processor that belongs to the model, or point model at the config.json that belongs to the processor "
    "(presets have no tokenizer)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Tokens that a tokenizer and a model must agree on."""

    image_token: str
    image_token_id: int
    largest: int
    """The largest token of the vocabulary."""

    def check(self, shape: ModelShape, *, where: str) -> None:
        """Refuse tokens that are not those of a model of `shape`.

        Raises:
            ScenarioError: beginning with `where`, with both remedies.
        """
        if self.image_token_id != (expected := shape.special_tokens["vision"]):
            raise ScenarioError(
                f"{where}: {self.image_token} is token {self.image_token_id} of the tokenizer, and the model's image "
                f"token is {expected}; {_REMEDY}"
            )
        if self.largest >= shape.language.vocab_size:
            raise ScenarioError(
                f"{where}: the tokenizer has a token {self.largest}, and the model's vocabulary ends at "
                f"{shape.language.vocab_size - 1}; {_REMEDY}"
            )


def saved_tokens(processor: Path, *, where: str) -> Tokens | None:
    """The tokens of the processor that was saved in a folder; None where its files alone do not tell.

    Raises:
        ScenarioError: a file is broken; the message begins with `where`.
    """
    content, config, own = (
        read_saved(processor / name, where=where)
        for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json")
    )
    # As `transformers` has it: a tokenizer that knows its image token comes first.
    image_token = config.get("image_token") or own.get("image_token")
    vocabulary = _vocabulary(content, config)
    if not isinstance(image_token, str) or image_token not in vocabulary:
        return None
    return Tokens(image_token=image_token, image_token_id=vocabulary[image_token], largest=max(vocabulary.values()))


def _vocabulary(content: dict[str, Any], config: dict[str, Any]) -> dict[str, int]:
    words = content.get("model", {}).get("vocab", {})
    # Unigram models write their pieces as a list, each with its score.
    known = dict(words) if isinstance(words, dict) else {piece: index for index, (piece, _) in enumerate(words)}
    known |= {token["content"]: token["id"] for token in content.get("added_tokens", ())}
    return known | {token["content"]: int(index) for index, token in config.get("added_tokens_decoder", {}).items()}


def read_saved(file: Path, *, where: str) -> dict[str, Any]:
    """Read a JSON file of a processor; empty if it has none.

    Raises:
        ScenarioError: it is broken; the message begins with `where`.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScenarioError(
            f"{where}: {file.name} cannot be read: {error}; save it again with save_pretrained"
        ) from None
    return content if isinstance(content, dict) else {}


def check_image_size(made: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse images [channels, height, width] of another size than the model reads.

    Raises:
        ScenarioError: with both sizes and the remedy.
    """
    if made != expected:
        raise ScenarioError(
            f"data.processor: makes images of {_shown(made)}, and the model reads {_shown(expected)}; use the "
            "processor that belongs to the model"
        )


def saved_image_size(processor: Path, *, where: str) -> tuple[int, int] | None:
    """Height and width of what the processor makes that was saved in a folder; None where its files do not tell.

    Raises:
        ScenarioError: a file is broken; the message begins with `where`.
    """
    # As `transformers` 5 saves a processor, and as it was saved before.
    joint = read_saved(processor / "processor_config.json", where=where).get("image_processor")
    own = joint if isinstance(joint, dict) else read_saved(processor / "preprocessor_config.json", where=where)
    # Cropping comes last, so it decides.
    for does, key in (("do_center_crop", "crop_size"), ("do_resize", "size")):
        if own.get(does) is True:
            return _size(own.get(key))
    return None


def _size(said: Any) -> tuple[int, int] | None:
    if type(said) is int:
        return said, said
    height, width = (said.get(side) if isinstance(said, dict) else None for side in ("height", "width"))
    return (height, width) if type(height) is int and type(width) is int else None


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
