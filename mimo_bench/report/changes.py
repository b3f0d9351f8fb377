"""What changed since an earlier run, as the report shows it. Whoever compares runs fills this in.

record -> [report]: the report compares nothing itself; without a value of this kind it does not speak of changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["better", "worse", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing that is different in one layout, beyond the noise."""

    layout: str
    direction: Direction
    """`other` where it is neither, such as a layout that is new."""
    said: str
    """What and by how much: `step time 205 ms -> 251 ms, +22 %`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """A run held against an earlier one."""

    since: str
    """The earlier run in a few words: `2026-11-21 02:00 UTC, commit a11b01e`."""
    changes: tuple[Change, ...] = ()
    """Worst first; empty when nothing moved beyond the noise."""
    not_compared: str | None = None
    """Why the two cannot be compared, if they cannot; there are no changes then."""
