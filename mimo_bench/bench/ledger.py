"""The record of a run while it grows: each layout's entry is on disk before the next layout begins."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mimo_bench.bench.request import RunRequest
from mimo_bench.bench.resume import resumed, same_training, sole_writer
from mimo_bench.launch import DeviceKind
from mimo_bench.meters import hash_of_code, hash_of_measuring_code, read_environment
from mimo_bench.record import (
    MEASURING_VERSION,
    RUN_FILE,
    HistoryComparison,
    LayoutRecord,
    ModuleGrid,
    RunRecord,
    Status,
    machine,
    read_run,
    write_layout,
    write_run,
)
from mimo_bench.report import rank_layouts, write_report
from mimo_bench.scenario import LayoutCase, Scenario
from mimo_bench.util import UsageError


class Ledger:
    """Holds a `RunRecord` and keeps what `read_run` reads from the directory equal to it."""

    def __init__(self, request: RunRequest, *, earlier: RunRecord | None = None) -> None:
        """Open the record of a run, before any layout ran; `earlier` is the record that it resumes."""
        scenario = request.scenario
        self._directory = request.directory
        self._earlier = earlier
        self.record = RunRecord(
            scenario=scenario.model_dump(mode="json"),
            scenario_file=str(request.scenario_file),
            scenario_hash=scenario.content_hash,
            code_hash=hash_of_code(),
            measuring_version=MEASURING_VERSION,
            measuring_hash=hash_of_measuring_code(),
            question=scenario.question,
            started_at=datetime.now(UTC),
            finished_at=None,
            command=request.command,
            modes=request.modes,
            tainted=request.tainted,
            environment=read_environment(request.device_kind),
            baseline=scenario.baseline,
            layouts=tuple(
                entry(scenario.case(name), status="not_run", reason="the run has not come to it")
                for name in request.names
            ),
        )
        if earlier is not None:
            # Whole, so that no layout.json of an earlier invocation counts instead of an entry of this one.
            write_run(self._directory, earlier)
            self.record = resumed(self.record, earlier)
        write_run(self._directory, self.record)

    @property
    def kept(self) -> tuple[str, ...]:
        """Layouts whose entries come from an earlier invocation, and stay."""
        return self.record.resumptions[-1].kept if self._earlier is not None else ()

    def start(self, case: LayoutCase) -> None:
        """Note that a layout is running; if nothing more is written, that is how it ended."""
        begun = {"status": "interrupted", "reason": "it was under way when this record was last written"}
        known = next(layout for layout in self.record.layouts if layout.name == case.name)
        self.enter(known.model_copy(update=begun))

    def enter(self, layout: LayoutRecord) -> LayoutRecord:
        """Put what is now known of a layout in its place, and give it back."""
        layouts = tuple(layout if known.name == layout.name else known for known in self.record.layouts)
        self.record = self.record.model_copy(update={"layouts": layouts})
        write_layout(self._directory, layout)
        return layout

    def compare_with_earlier(self, baseline: LayoutRecord) -> None:
        """Keep nothing if the baseline, trained again, is not what the kept layouts were compared with."""
        if self._earlier is None or not self.kept or not baseline.losses:
            return
        before = next(layout for layout in self._earlier.layouts if layout.name == baseline.name)
        if not same_training(baseline, before):
            reason = "nothing: the baseline, trained again, came out different from its first training"
            last = self.record.resumptions[-1].model_copy(update={"kept": (), "reason": reason})
            self._update(resumptions=(*self.record.resumptions[:-1], last))

    def taint(self, reason: str) -> None:
        """Say why the numbers should not be compared; the first reason stays, further ones follow it."""
        known = self.record.tainted
        if known is None or reason not in known:
            self._update(tainted=reason if known is None else f"{known}; {reason}")

    def interrupt(self) -> None:
        """The run stops here, in the middle of one layout or before the first."""
        reasons = {"interrupted": "the run was stopped during it", "not_run": "the run was stopped before it"}
        self._update(
            layouts=tuple(
                known.model_copy(update={"reason": reasons[known.status]}) if known.status in reasons else known
                for known in self.record.layouts
            )
        )

    def finish(self) -> None:
        """Every layout has its end: rank those that passed."""
        self._update(ranking=rank_layouts(self.record.layouts), finished_at=datetime.now(UTC))

    def note(self, held: HistoryComparison) -> None:
        """Add the comparison with earlier runs."""
        self._update(history=held)

    def _update(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        write_run(self._directory, self.record)


def entry(case: LayoutCase, *, status: Status, reason: str, known: Mapping[str, Any] | None = None) -> LayoutRecord:
    """Return a layout's entry in the record: what the scenario declares, how it ended and what is `known` of it."""
    layout = case.layout
    return LayoutRecord(
        name=case.name,
        placement=layout.placement,
        world_size=layout.world_size,
        modules={
            module: ModuleGrid(tp=grid.tp, cp=grid.cp, pp=grid.pp, dp=grid.dp, ep=grid.ep, ranks=tuple(grid.ranks))
            for module, grid in layout.modules.items()
        },
        settings=case.settings.model_dump(),
        status=status,
        reason=reason,
        **(known or {}),
    )


def check_record(directory: Path, *, device_kind: DeviceKind, scenario: Scenario | None = None) -> RunRecord:
    """Return the record in `directory` if it is of this machine, and of `scenario` if one is given.

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
        UsageError: another process runs into the directory.
    """
    with sole_writer(directory):
        record = read_run(directory).model_copy(update=found)
        write_run(directory, record)
        write_report(directory, record)
