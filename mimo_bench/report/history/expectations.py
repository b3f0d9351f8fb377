"""What people expect, written down beside a history: references with bounds, failures that are known, new beginnings.

`HISTORY/expectations.toml`, read with every judgement.
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
    """A number to hold against on one kind of machine, with how far either way is still the same."""

    machine: Text
    """As `mimo-bench history list` prints it."""
    scenario: Text
    """The scenario file's name, without `.toml`."""
    layout: Text
    quantity: Quantity = "step_seconds"
    value: Share
    slower: Share
    """Share by which it may be exceeded; beyond, the layout has regressed."""
    faster: Share
    """Share by which it may be undercut; beyond, this reference wants to be renewed."""


class ExpectedFailure(_Table):
    """A layout that is known to fail: it is reported, and does not count."""

    scenario: Text
    layout: Text
    status: Status | Literal["regressed"]
    """How it fails."""
    reason: Text
    link: Text
    """Where it is being followed."""
    machine: str | None = None
    """Only on this kind of machine; everywhere where it is not given."""


class Accepted(_Table):
    """From this moment on, what is measured is the new normal."""

    since: AwareDatetime
    """Runs that began earlier are no longer held against."""
    scenario: Text
    layout: str | None = None
    """Every layout where it is not given."""
    reason: Text


class Expectations(_Table):
    """The whole file; without one, nothing is expected."""

    reference: tuple[Reference, ...] = ()
    expected_failure: tuple[ExpectedFailure, ...] = ()
    accepted: tuple[Accepted, ...] = ()

    def reference_of(self, night: Night, quantity: Quantity) -> Reference | None:
        """What is written down for the night's layout on its machine, the last entry if there are several."""
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
        """The failures that are known of the night's layout."""
        return tuple(
            each
            for each in self.expected_failure
            if (each.scenario, each.layout) == (night.scenario, night.layout) and each.machine in (None, night.machine)
        )

    def accepted_since(self, night: Night) -> datetime | None:
        """When what the night's layout is held against began anew."""
        return max(
            (
                each.since
                for each in self.accepted
                if each.scenario == night.scenario and each.layout in (None, night.layout)
            ),
            default=None,
        )


def read_expectations(path: Path) -> Expectations:
    """What the file at `path` says; nothing is expected where there is none.

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
    """Write the entry into the history's expectations and return it; it holds from the last run on unless told.

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
        raise UsageError("--reason: is empty; say why, for whoever reads the trend next year")
    moment = nights[-1].started_at if since is None else since.replace(tzinfo=UTC)
    # Seconds are what the file keeps, and the run that is accepted must not be the one that is left out.
    entry = Accepted(since=moment.replace(microsecond=0), scenario=scenario, layout=layout, reason=reason)
    accept(history.expectations_file, entry)
    return entry


def accept(path: Path, entry: Accepted) -> None:
    """Write `entry` at the end of the file at `path`, which stays as people wrote it.

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
    """A basic TOML string; JSON's escapes are among TOML's."""
    return json.dumps(value)
