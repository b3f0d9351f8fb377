"""A number and what it counts, as a sentence has them. English only, and only plurals in -s."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """`1 layout`, `2 layouts`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
