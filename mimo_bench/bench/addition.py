"""What is measured beside a run, put into its record: the instruments' overhead, the bandwidth of the machine's links.

The same scenario and the same machine, or it is refused before anything is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mimo_bench.bench.resume import sole_writer
from mimo_bench.launch import DeviceKind
from mimo_bench.meters import read_environment
from mimo_bench.record import RUN_FILE, RunRecord, machine, read_run, write_run
from mimo_bench.report import write_report
from mimo_bench.scenario import Scenario
from mimo_bench.util import UsageError


def check_record(directory: Path, *, device_kind: DeviceKind, scenario: Scenario | None = None) -> RunRecord:
    """The record in `directory`, once it is known to be of this machine, and of `scenario` if one is given.

    Raises:
        RecordError: there is no record, or it cannot be read.
        UsageError: it is of something else; the message has both values and the remedy.
    """
    record = read_run(directory)
    pairs = {"environment": (machine(record.environment), machine(read_environment(device_kind)))}
    if scenario is not None:
        pairs["scenario_hash"] = (record.scenario_hash, scenario.content_hash)
    for name, (then, now) in pairs.items():
        if then != now:
            raise UsageError(
                f"--record: {directory / RUN_FILE}: {name} is {then}, and here it is {now}; measure with the scenario "
                f"and on the machine of the record, or leave --record out"
            )
    return record


def add_to_record(directory: Path, **found: Any) -> None:
    """Set the fields in `found` of the record in `directory`, and render its report again.

    Raises:
        UsageError: somebody runs into the directory.
    """
    with sole_writer(directory):
        record = read_run(directory).model_copy(update=found)
        write_run(directory, record)
        write_report(directory, record)
