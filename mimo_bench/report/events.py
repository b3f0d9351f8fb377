"""Events of a running matrix, as plain values: `matrix` sends, `console` shows.

Events are for watching. Results are in the record, and no reader takes them from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mimo_bench.record import LayoutRecord, Mode, RunRecord
from mimo_bench.scenario import Scenario


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixStarted:
    """The layouts are known and about to be trained, one after the other."""

    scenario: Scenario
    names: tuple[str, ...]
    """The layouts of this run, in order; the scenario may have more."""
    kept: tuple[LayoutRecord, ...] = ()
    """Those that ended in an earlier invocation and are not run again."""
    is_resumed: bool = False
    """Whether there is an earlier invocation, whatever is kept of it."""
    modes: tuple[Mode, ...]
    device_kind: Literal["cpu", "cuda"]
    directory: Path
    """Where record and report will lie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutStarted:
    """Ranks are being started for one layout in one mode; a layout starts once for each mode."""

    name: str
    mode: Mode


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutEnded:
    """One layout has all that it will get: a status, a reason, and what was measured."""

    layout: LayoutRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixEnded:
    """Every layout has ended and the record is written."""

    record: RunRecord
    contradictions: tuple[str, ...] = ()
    """What numbers of the record contradict each other, one sentence each; only a meter that errs makes them."""


Event = MatrixStarted | LayoutStarted | LayoutEnded | MatrixEnded
OnEvent = Callable[[Event], None]
