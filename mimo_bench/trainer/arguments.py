"""Refuses what a script gives to a training and cannot be, before anything is built. No torch.

scenario -> layout -> [trainer] -> meters -> record -> parity -> report
"""

from __future__ import annotations

from pathlib import Path

from mimo_bench.errors import UsageError


def check_least(name: str, value: object, *, least: int) -> None:
    """Refuse what is no whole number, and one below `least`.

    Raises:
        UsageError: naming both.
    """
    if not isinstance(value, int) or value < least:
        raise UsageError(f"{name} = {value}: give a whole number of at least {least}")


def check_path(name: str, value: object) -> None:
    """Refuse a path that is none, such as a string.

    Raises:
        UsageError: naming both.
    """
    if not isinstance(value, Path):
        raise UsageError(f"{name} = {value!r}: give a pathlib.Path")
