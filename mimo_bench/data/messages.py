"""What the messages of a conversation may be: roles, text and images in order, and what else a chat template writes.

What is no such message would train as if it were empty, or as somebody else's words, so it is refused.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Set
from typing import Any

from mimo_bench.data.rows import BadSample

Message = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")
"""Those that chat templates of the field share."""


def roles_of(template: Any) -> frozenset[str]:
    """The roles that messages may have: the common ones, and all words that the chat template has in quotes.

    So those of its own are among them, such as `developer` or `ipython`.
    """
    # Of several templates under names, `str` writes the quotes with a backslash.
    return frozenset(ROLES).union(re.findall(r"""['"](\w+)\\?['"]""", str(template)))


def in_parts(messages: list[Any], *, image_token: str, roles: Set[str]) -> list[Message]:
    """The messages with their content as a list of text and images in order; what else they hold stays, null apart.

    Raises:
        BadSample: one has no role, none of `roles`, no content, or other content than text and images.
    """
    return [_in_parts(index, message, image_token, roles) for index, message in enumerate(messages)]


def _in_parts(index: int, message: Any, image_token: str, roles: Set[str]) -> Message:
    if not isinstance(message, dict) or not isinstance(role := message.get("role"), str):
        raise BadSample(f"has a message without a role, {_short(message)}; give each one role and content")
    if role not in roles:
        raise BadSample(
            f"role {_short(role)} of message {index} is not known; use {', '.join(ROLES[:-1])} or {ROLES[-1]}, or one "
            "that the chat template names"
        )
    content = message.get("content")
    if content is None and not (role == "assistant" and message.get("tool_calls")):
        raise BadSample(f"message {index} has no content; give it text, or a list of parts")
    known = {key: value for key, value in message.items() if value is not None}
    return {**known, "content": [] if content is None else _parts(content, image_token)}


def _parts(content: Any, image_token: str) -> list[Message]:
    """Text and images in order, from a string with image tokens or from parts already."""
    if isinstance(content, list):
        return [_part(part) for part in content]
    if not isinstance(content, str):
        raise BadSample(f"has {_short(content)} as content of a message; make it text, or a list of parts")
    first, *others = content.split(image_token)
    parts = [{"type": "text", "text": first}]
    for other in others:
        parts += [{"type": "image"}, {"type": "text", "text": other}]
    return [part for part in parts if part["type"] == "image" or part["text"].strip()]


def _part(part: Any) -> Message:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        return {"type": "image"}
    if kind == "text" and isinstance(text := part.get("text"), str):
        return {"type": "text", "text": text}
    raise BadSample(f"has {_short(part)} as part of a message, which is neither text nor an image; make it one of them")


def _short(value: Any) -> str:
    """What stands there, cut where it is long."""
    return reprlib.repr(value)
