"""Columns of a user's own files: which holds what, and whether its type fits. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any, Final

from mimo_bench.data.config import HuggingFaceData
from mimo_bench.data.formats import NAMES_OF_IMAGES
from mimo_bench.util import choices

_USUAL: Final = {"images": ("images", "image"), "messages": ("messages", "conversations")}
"""Names of columns in the formats of the field, the default first, which stands for all of them."""


def columns_of(data: HuggingFaceData, features: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns of samples by key: those that the scenario names, or their usual names if it names none."""
    found = {}
    for key, column in data.columns.items():
        usual = _USUAL.get(key, ())
        others = usual if usual and column == usual[0] else (column,)
        found[key] = next((name for name in others if name in features), column)
    messages = features.get(found.get("messages", ""))
    if found["images"] not in features and found["images"] == _USUAL["images"][0] and may_name_images(messages):
        del found["images"]
    return found


def column_remedy(key: str, column: str, *, others: Set[str]) -> str:
    """Return the remedy for a missing column; columns that another key names are not offered."""
    if not others:
        remedy = "add it, with an empty list where there are none" if key == "images" else "add it"
        return f"and no column that another key does not name already; {remedy}"
    remedy = f"set data.{key} to the column that holds them: {choices(column, sorted(others))}"
    return (
        f"{remedy}; or data.question and data.answer to columns of one question each" if key == "messages" else remedy
    )


_TEXT = ("string", "large_string")
WHOLE = ("int", "uint")
_MESSAGES = (("role", "content"), ("from", "value"))
"""Keys of a message, as OpenAI and as ShareGPT have them."""


def wrong_columns(columns: Mapping[str, str], features: Any) -> Iterator[str]:
    """Yield reason and remedy for each column whose type in `features` does not fit its key."""
    for key, column in columns.items():
        feature = features[column]
        match key:
            case "images":
                reason = _no_images(feature)
            case "messages":
                reason = no_messages(feature)
            case _:
                reason = _no_text(feature)
        if reason is not None:
            yield f"column {column!r}, which data.{key} names, {reason}"


def holds_paths(feature: Any) -> bool:
    """True if a column of images can hold only paths, one or several a row; False for None."""
    inner = listed(feature)
    return scalar(feature if inner is None else inner) in _TEXT


def _no_images(feature: Any) -> str | None:
    inner = listed(feature)
    kind = scalar(feature if inner is None else inner)
    if kind is None or kind in (*_TEXT, "null"):
        return None
    return f"holds {kind}; give it paths of images, or images"


def no_messages(feature: Any) -> str | None:
    """Return why a column of this type cannot be one of messages; None if it can."""
    inner = listed(feature)
    if inner is None:
        kind = scalar(feature)
        return None if kind is None else f"holds {kind}; give it lists of messages with role and content"
    if isinstance(inner, dict) and not any(inner.keys() >= {*keys} for keys in _MESSAGES):
        return f"holds messages of {' and '.join(inner)}; rename these to role and content, or to from and value"
    return None


def may_name_images(feature: Any) -> bool:
    """True if the type of a column of messages leaves room for parts that name an image."""
    inner = listed(feature)
    contents = [inner.get("content"), inner.get("value")] if isinstance(inner, dict) else [feature]
    parts = [listed(one) or one for one in contents if one is not None and scalar(one) is None]
    return any(not isinstance(part, dict) or part.keys() & {*NAMES_OF_IMAGES} for part in parts)


def _no_text(feature: Any) -> str | None:
    kind = "lists" if listed(feature) is not None else scalar(feature)
    # A whole number is written in one way only; of a broken one, `5.0` may have been `5`.
    if kind is None or kind in _TEXT or kind.startswith(WHOLE):
        return None
    return f"holds {kind}; give it text, in quotes where the file is JSONL"


def listed(feature: Any) -> Any:
    """Return the element type of a list type; None for others."""
    return getattr(feature, "feature", None)


def scalar(feature: Any) -> str | None:
    """The type of single values, such as `int64`; None of anything else, images among them."""
    import datasets

    return str(feature.dtype) if isinstance(feature, datasets.Value) else None


def widened(feature: Any) -> Any:
    """Return a type with text wherever rows had nothing but nulls or empty lists."""
    import datasets

    if isinstance(feature, dict):
        return {name: widened(inner) for name, inner in feature.items()}
    if (inner := listed(feature)) is not None:
        return datasets.List(widened(inner))
    return datasets.Value("string") if scalar(feature) == "null" else feature
