"""Whether the columns of a user's files hold what a scenario takes them for, by the types that `datasets` found.

What types leave open, such as lists of unlike things, is told of each sample when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mimo_bench.data.config import HuggingFaceData

_TEXT = ("string", "large_string")
_MESSAGE = ("role", "content")


def wrong_columns(data: HuggingFaceData, features: Any) -> Iterator[str]:
    """What is wrong with each column that cannot be what it is named for, and what to do; `features` has them all."""
    for key, column in data.columns.items():
        feature = features[column]
        match key:
            case "images":
                reason = _no_images(feature)
            case "messages":
                reason = _no_messages(feature)
            case _:
                reason = _no_text(feature)
        if reason is not None:
            yield f"column {column!r}, which data.{key} names, {reason}"


def holds_paths(feature: Any) -> bool:
    """Whether a column of images can only hold paths, one or several a row; not so where it is missing, `None`."""
    inner = _listed(feature)
    return _scalar(feature if inner is None else inner) in _TEXT


def _no_images(feature: Any) -> str | None:
    inner = _listed(feature)
    kind = _scalar(feature if inner is None else inner)
    if kind is None or kind in (*_TEXT, "null"):
        return None
    return f"holds {kind}; give it paths of images, or images"


def _no_messages(feature: Any) -> str | None:
    inner = _listed(feature)
    if inner is None:
        kind = _scalar(feature)
        return None if kind is None else f"holds {kind}; give it lists of messages with {' and '.join(_MESSAGE)}"
    if isinstance(inner, dict) and (missing := [name for name in _MESSAGE if name not in inner]):
        return f"holds messages of {' and '.join(inner)}, without {' and '.join(missing)}; rename what stands for them"
    return None


def _no_text(feature: Any) -> str | None:
    kind = "lists" if _listed(feature) is not None else _scalar(feature)
    # A whole number is written in one way only; of a broken one, `5.0` may have been `5`.
    if kind is None or kind in _TEXT or kind.startswith(("int", "uint")):
        return None
    return f"holds {kind}; give it text, in quotes where the file is JSONL"


def _listed(feature: Any) -> Any:
    """What a list holds; None of anything else."""
    return getattr(feature, "feature", None)


def _scalar(feature: Any) -> str | None:
    """The type of single values, such as `int64`; None of anything else, images among them."""
    import datasets

    return str(feature.dtype) if isinstance(feature, datasets.Value) else None
