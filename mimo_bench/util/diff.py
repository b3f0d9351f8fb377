"""First difference of two nested tables, and relative difference of two numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard


class KeyDifference(NamedTuple):
    """A key, and what it says on either side; None where it is not there."""

    key: str
    """With dots from table to table; tables of a list go by their names."""
    before: Any
    now: Any


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> KeyDifference | None:
    """The first key, in the order of the alphabet, whose values differ; None if all are equal."""
    return next(_differences("", before, now), None)


def are_named(value: Any) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """True for a list of tables that all have a name."""
    return isinstance(value, list | tuple) and all(isinstance(each, Mapping) and "name" in each for each in value)


def _differences(key: str, before: Any, now: Any) -> Iterator[KeyDifference]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted(before.keys() | now.keys()):
            yield from _differences(f"{key}.{name}" if key else name, before.get(name), now.get(name))
    elif _names(before) is not None and _names(before) == _names(now):
        for one, other in zip(before, now, strict=True):
            yield from _differences(f"{key}.{one['name']}", one, other)
    elif before != now:
        yield KeyDifference(key, before, now)


def _names(value: Any) -> list[str] | None:
    return [each["name"] for each in value] if are_named(value) else None


def relative(found: float | None, expected: float | None) -> float | None:
    """|found - expected| / |expected|; None where either is unknown."""
    if found is None or expected is None:
        return None
    if found == expected:
        return 0.0
    return abs(found - expected) / abs(expected) if expected else None
