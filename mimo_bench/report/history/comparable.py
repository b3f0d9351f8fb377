"""Comparability of runs: the same experiment, measured by the same code, on the same machine type."""

from __future__ import annotations

from mimo_bench.record import RunRecord, machine
from mimo_bench.scenario import shared_content
from mimo_bench.util import first_difference


def incomparable(before: RunRecord, now: RunRecord) -> list[str]:
    """Return the reasons why two runs are not comparable, one sentence each; empty if they are.

    Layouts are compared one by one: others may be added or removed, and the question may be reworded.
    """
    found = []
    if (parted := first_difference(shared_content(before.scenario), shared_content(now.scenario))) is not None:
        found.append(
            f"the scenario differs: {parted.key} was {_in_words(parted.before)} and is {_in_words(parted.now)}"
        )
    pairs = {
        "the measuring code": (before.measured_by, now.measured_by, "measured_by"),
        "the machine": (machine(before.environment), machine(now.environment), "environment"),
    }
    found += [
        f"{what} differs: {key} was {_in_words(was)} and is {_in_words(is_now)}"
        for what, (was, is_now, key) in pairs.items()
        if was != is_now
    ]
    for when, record in (("old", before), ("new", now)):
        if record.tainted is not None:
            found.append(f"the {when} run is tainted: {record.tainted}")
    return found


def _in_words(value: object) -> str:
    """Return a value for a message: of tables only that they are there, of a hash the first 12 digits."""
    if value is None:
        return "not there"
    text = str(value)
    return "there" if isinstance(value, dict) else text[:12] if len(text) == 64 and text.isalnum() else text
