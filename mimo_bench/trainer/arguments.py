"""Refuses what a script gives to a training and cannot be, before anything is built. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from mimo_bench.data import Split
from mimo_bench.util import UsageError, choices


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


def check_kind(name: str, value: object, kind: type, *, such_as: str) -> None:
    """Refuse a value of another class.

    Raises:
        UsageError: naming both, and what to give, for example.
    """
    if not isinstance(value, kind):
        raise UsageError(f"{name} = {value!r}: give a {kind.__name__}, such as {such_as}")


def check_split(split: object) -> None:
    """Refuse what is no split.

    Raises:
        UsageError: naming it, and those there are.
    """
    if split not in (known := get_args(Split)):
        raise UsageError(f"split = {split!r}: {choices(str(split), known)}")
