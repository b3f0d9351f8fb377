"""Expectations of a history, written by the user: references with bounds, expected failures, accepted changes.

Every judgement reads `HISTORY/expectations.toml`.
"""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from mimo_bench.record import Quantity, Status
from mimo_bench.report.history.nights import Night
from mimo_bench.report.history.store import History
from mimo_bench.util import HistoryError, UsageError, choices, explain

Share = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Reference(_Table):
    """Reference value for one machine type, with the tolerated change in each direction."""

    machine: Text
    """Machine type as `mimo-bench history list` prints it."""
    scenario: Text
    """Name of the scenario file, without `.toml`."""
    layout: Text
    quantity: Quantity = "step_seconds"
    value: Share
    slower: Share
    """Tolerated increase, as a share; beyond it the layout has regressed."""
    faster: Share
    """Tolerated decrease, as a share; beyond it the layout has improved, and the reference should be renewed."""


class ExpectedFailure(_Table):
    """A layout that is expected to fail: it is reported and does not count for the exit status."""

    scenario: Text
    layout: Text
    status: Status | Literal["regressed"]
    """Status that is expected."""
    reason: Text
    link: Text
    """Link to the issue that tracks it."""
    machine: str | None = None
    """Machine type; None for all."""


class Accepted(_Table):
    """A moment from which what is measured is the new reference."""

    since: AwareDatetime
    """Start of the first run that later runs are compared with."""
    scenario: Text
    layout: str | None = None
    """Layout; None for all."""
    reason: Text


class Expectations(_Table):
    """Content of the file; without a file nothing is expected."""

    reference: tuple[Reference, ...] = ()
    expected_failure: tuple[ExpectedFailure, ...] = ()
    accepted: tuple[Accepted, ...] = ()

    def reference_of(self, night: Night, quantity: Quantity) -> Reference | None:
        """Return the reference of the night's layout on its machine; of several entries the last counts."""
        return next(
            (
                each
                for each in reversed(self.reference)
                if (each.machine, each.scenario, each.layout, each.quantity)
                == (night.machine, night.scenario, night.layout, quantity)
            ),
            None,
        )

    def failure_of(self, night: Night) -> tuple[ExpectedFailure, ...]:
        """Return the expected failures of the night's layout."""
        return tuple(
            each
            for each in self.expected_failure
            if (each.scenario, each.layout) == (night.scenario, night.layout) and each.machine in (None, night.machine)
        )

    def accepted_since(self, night: Night) -> datetime | None:
        """Return the start of the first run that the night's layout is compared with; None for all runs."""
        return max(
            (
                each.since
                for each in self.accepted
                if each.scenario == night.scenario and each.layout in (None, night.layout)
            ),
            default=None,
        )


def read_expectations(path: Path) -> Expectations:
    """Return the expectations in the file at `path`; nothing is expected if there is none.

    Raises:
        HistoryError: with file, key, value and remedy.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Expectations()
    except OSError as error:
        raise HistoryError(f"{path}: cannot be read: {error.strerror}; make it readable, or remove it") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HistoryError(f"{path}: not valid TOML: {error}; correct it there, or restore the file") from None
    try:
        # A TOML list fills a tuple, which strict types would refuse.
        return Expectations.model_validate(
            {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
        )
    except ValidationError as error:
        problems = explain(error.errors(), content=content, root=Expectations)
        raise HistoryError("\n".join(f"{path}: {problem}" for problem in problems)) from None


def accept_since(
    history: History, *, scenario: str, layout: str | None, since: datetime | None, reason: str
) -> Accepted:
    """Accept what is measured since `since`, or since the last run: write the entry into the expectations.

    Raises:
        UsageError: the history holds no such scenario or layout, or there is no reason.
    """
    nights = history.nights()
    if scenario not in (known := sorted({night.scenario for night in nights})):
        raise UsageError(f"--scenario: {history.directory} holds no run of {scenario!r}; {choices(scenario, known)}")
    nights = [night for night in nights if night.scenario == scenario]
    if layout is not None and layout not in (known := sorted({night.layout for night in nights})):
        raise UsageError(f"--layout: {scenario} has no layout {layout!r}; {choices(layout, known)}")
    if not reason.strip():
        raise UsageError("--reason: is empty; give the reason, for those who read the trend later")
    moment = nights[-1].started_at if since is None else since.replace(tzinfo=UTC)
    # The file keeps whole seconds; rounded down, so that the accepted run itself counts.
    entry = Accepted(since=moment.replace(microsecond=0), scenario=scenario, layout=layout, reason=reason)
    accept(history.expectations_file, entry)
    return entry


def accept(path: Path, entry: Accepted) -> None:
    """Append `entry` to the file at `path`, whose text is kept.

    Raises:
        HistoryError: the file cannot be read as it is.
    """
    read_expectations(path)
    lines = ["", "[[accepted]]", f"since = {entry.since.isoformat(timespec='seconds')}"]
    lines += [
        f"{key} = {_toml(value)}" for key, value in entry.model_dump(exclude={"since"}, exclude_none=True).items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _toml(value: str) -> str:
    """Return a basic TOML string; JSON's escapes are among TOML's."""
    return json.dumps(value)
