"""Validation of a record against its schema and its own identities: `mimo-bench validate DIR`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from mimo_bench.predict.identities import layout_contradictions
from mimo_bench.record import RUN_FILE, RunRecord, read_run, read_series, series_path
from mimo_bench.scenario import Scenario, earlier_hash_of_content, hash_of_content
from mimo_bench.util import RecordError, ScenarioError


def validate(directory: Path) -> None:
    """Compare the record in `directory` with its schema and its own identities.

    Raises:
        RecordError: the record cannot be read, or contradicts itself; the message lists every contradiction.
    """
    record = read_run(directory)
    path = directory / RUN_FILE
    if found := [*contradictions(record), *_series(directory, record)]:
        raise RecordError(
            "\n".join(f"{path}: {contradiction}" for contradiction in found)
            + f"\n{path}: {len(found)} in all; a record is not edited by hand: restore the file or run again"
        )


def contradictions(record: RunRecord) -> Iterator[str]:
    """Yield everything in `record` that contradicts the scenario or itself, one sentence each."""
    try:
        # As JSON: the shape of a user's model consists of lists and numbers here.
        scenario = Scenario.model_validate_json(json.dumps(record.scenario))
        scenario.check()
    except (ValidationError, ScenarioError) as error:
        # Nothing else can be compared with an invalid scenario.
        yield f"scenario: is not a valid scenario: {error}"
        return
    yield from _run(record, scenario)
    yield from _baseline(record)
    yield from _ranking(record)
    for layout in record.layouts:
        for contradiction in layout_contradictions(layout, scenario, modes=record.modes):
            yield f"layout {layout.name!r}: {contradiction}"


def _run(record: RunRecord, scenario: Scenario) -> Iterator[str]:
    # The hash of the recorded scenario, not of the validated one: a field that was added later, with a default, must
    # not contradict an older record.
    expected = hash_of_content(record.scenario)
    if record.scenario_hash not in (expected, earlier_hash_of_content(record.scenario)):
        yield f"scenario_hash = {record.scenario_hash!r}, but the scenario's is {expected!r}"
    if record.question != scenario.question:
        yield f"question = {record.question!r}, but the scenario asks {scenario.question!r}"
    if record.baseline != scenario.baseline:
        yield f"baseline = {record.baseline!r}, but the scenario's is {scenario.baseline!r}"
    if record.finished_at and record.finished_at.timestamp() < record.started_at.timestamp():
        yield f"finished_at = {record.finished_at.isoformat()} is before started_at = {record.started_at.isoformat()}"
    names = [layout.name for layout in record.layouts]
    for resumption in record.resumptions:
        if unknown := set(resumption.kept) - set(names):
            yield f"resumptions: keeps {', '.join(sorted(unknown))}, which is no layout of the record"
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"layouts: the name {name!r} is used {names.count(name)} times"


def _baseline(record: RunRecord) -> Iterator[str]:
    """Yield contradictions of verdicts with the baseline; without it in the run, no layout has one."""
    present = any(layout.name == record.baseline for layout in record.layouts)
    for layout in record.layouts:
        verdict = layout.parity.verdict if layout.parity else None
        if verdict == "baseline" and layout.name != record.baseline:
            yield f"layout {layout.name!r}: parity.verdict is baseline, but the baseline is {record.baseline!r}"
        if verdict == "passed" and layout.name == record.baseline:
            yield f"layout {layout.name!r}: parity.verdict is passed, but it is the baseline; it cannot judge itself"
        if verdict in ("passed", "failed") and not present:
            yield f"layout {layout.name!r}: parity.verdict is {verdict}, but baseline {record.baseline!r} is missing"


def _ranking(record: RunRecord) -> Iterator[str]:
    status = {layout.name: layout.status for layout in record.layouts}
    names = [place.name for place in record.ranking]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"ranking: holds {name!r} {names.count(name)} times"
    for place in record.ranking:
        if (found := status.get(place.name)) != "passed":
            yield f"ranking: holds {place.name!r}, whose status is {found or 'null'}; only passed layouts are ranked"
        if not place.reason.strip():
            yield f"ranking: {place.name!r} has no reason"


def _series(directory: Path, record: RunRecord) -> Iterator[str]:
    """Yield missing and damaged step series."""
    for layout in record.layouts:
        path = series_path(directory, layout.name)
        if path.is_file():
            try:
                read_series(directory, layout.name)
            except RecordError as error:
                yield f"layout {layout.name!r}: {error}"
        elif layout.losses or layout.timing:
            yield f"layout {layout.name!r}: it has losses or timing, but its series {path} is missing"
