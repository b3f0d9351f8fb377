"""Whether a processor makes images that a model reads, from the files that `transformers` saved. No `transformers`.

A processor whose files say less than `transformers` makes of them is left to the ranks, which load it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mimo_bench.data.tokens import read_saved
from mimo_bench.util import ScenarioError


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
