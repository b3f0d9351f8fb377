"""Texts of messages: counts with their noun, and remedies for unknown names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def counted(number: int, what: str) -> str:
    """`1 layout`, `2 layouts`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


MOST_NAMES = 20
"""A message that lists more names than this is no longer read."""


def choices(word: str, known: Iterable[str]) -> str:
    """The remedy for an unknown `word`: "did you mean 'seed'? Known are ..."."""
    names = list(known)
    listed = ", ".join(names[:MOST_NAMES])
    if (num_more := len(names) - MOST_NAMES) > 0:
        listed += f" and {num_more} more"
    if close := get_close_matches(word, names, n=1):
        return f"did you mean {close[0]!r}? Known: {listed}"
    return f"use one of {listed}"
