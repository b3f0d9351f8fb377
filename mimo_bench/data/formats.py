"""Values of a row in the formats of the field: images by path, bytes or URL, parts of messages, tools. No torch."""

from __future__ import annotations

import base64
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mimo_bench.util import counted


class BadSample(Exception):  # noqa: N818  # a finding about one sample; the reader raises it as an error or skips the sample
    """Reason why a sample cannot be trained on; the caller adds its name."""


IMAGE_PARTS: Final = ("image", "image_url", "input_image")
TEXT_PARTS: Final = ("text", "input_text", "output_text")
MEDIA: Final = ("audio", "audios", "video", "videos")
"""Columns with content of a sample that no encoder here reads."""
OBJECTS: Final = "objects"
"""The column with what ms-swift writes in place of `<ref-object>` and `<bbox>`."""
UNFILLED: Final = ("<ref-object>", "<bbox>")
TOOLS: Final = "tools"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
NAMES_OF_IMAGES: Final = ("image", "image_url", "path", "url", "base64")
"""Keys under which a part names its image."""


def short(value: Any) -> str:
    """Shorten a value for a message."""
    return reprlib.repr(value)


def row_images(held: Any, messages: Any, *, folder: Path | None) -> list[Path | bytes]:
    """Return the images of a row in order: those of its column, or those that parts of its messages name.

    Args:
        held: the value of the column: one or several paths or images, or None.
        messages: the conversation; None if its type leaves no room for images.
        folder: the folder that relative paths start from.

    Raises:
        BadSample: a value is no image, or messages name other images than the column has.
    """
    column: list[Any] = held if isinstance(held, list) else [] if held is None else [held]
    sources = [_source(value, folder=folder) for value in column]
    named = [*named_images(messages)]
    if all(value is None for value in named):
        return sources
    placed = [None if value is None else _source(value, folder=folder) for value in named]
    if not sources and None not in placed:
        return [source for source in placed if source is not None]
    if len(placed) != len(sources):
        raise BadSample(
            f"places {counted(len(placed), 'image')} in its messages and has {len(sources)}; make both the same"
        )
    for value, other, source, expected in zip(named, column, placed, sources, strict=True):
        if source not in (None, expected):
            raise BadSample(
                f"names {_shown(value)} in its messages and {_shown(other)} in the column; make both the same"
            )
    return sources


def named_images(messages: Any) -> Iterator[Any]:
    """Yield for each image among the parts of messages the value that names it, None if it only marks a place."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") in IMAGE_PARTS:
                yield _named(part)


def _named(part: Mapping[str, Any]) -> Any:
    key, value = next(((key, part[key]) for key in NAMES_OF_IMAGES if part.get(key) is not None), ("", None))
    if key == "base64":
        return {"bytes": value}
    return value["url"] if isinstance(value, dict) and "url" in value else value


def _source(value: Any, *, folder: Path | None) -> Path | bytes:
    if isinstance(value, dict):
        if (content := value.get("bytes")) is not None:
            return content if isinstance(content, bytes) else _decoded(content)
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise BadSample(f"has {short(value)} among its images; give the path of an image, or an empty list for none")
    if value.startswith("data:"):
        return _decoded(value.partition(",")[2])
    value = value.removeprefix("file://")
    if _URL.match(value):
        raise BadSample(f"has {value!r} among its images, and URLs are not fetched; save it, and give its path")
    return Path(value) if folder is None else folder / value


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise BadSample(f"has an image that is no base64: {error}; encode it again, or give its path") from None


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and len(value) < 200 else short(value)


def tools_of(value: Any) -> list[Any] | None:
    """Return the tools of a row, a list or its JSON; None if there are none.

    Raises:
        BadSample: it is something else.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadSample(f"has tools that are no JSON: {error}; mend them, or remove the column") from None
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise BadSample(f"has {short(value)} for its tools; give it a list of them")
    return value


def is_empty(value: Any) -> bool:
    """True if a value of a column says nothing: null, an empty list or text, or a table of such."""
    return not value or value == "[]" or (isinstance(value, dict) and all(map(is_empty, value.values())))


def without_nulls(value: Any, feature: Any) -> Any:
    """Return a value without the nulls that columns of one type for all rows add; nulls within JSON stay."""
    if isinstance(value, dict) and isinstance(feature, dict):
        return {key: without_nulls(one, feature.get(key)) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        inner = getattr(feature, "feature", None)
        return [without_nulls(one, inner) for one in value]
    return value


def texts_of(messages: Iterable[Any]) -> Iterator[str]:
    """Yield all text of messages in any format."""
    for message in messages:
        for content in message.values() if isinstance(message, dict) else ():
            if isinstance(content, str):
                yield content
            elif isinstance(content, list):
                yield from (
                    part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
                )
