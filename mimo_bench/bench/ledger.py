"""The record of a run while it grows: written after every layout, so that whatever happens leaves what is known."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mimo_bench.bench.resume import go_on, same_training
from mimo_bench.meters import hash_of_code, hash_of_measuring_code, read_environment
from mimo_bench.record import (
    MEASURING_VERSION,
    HeldAgainst,
    LayoutRecord,
    Mode,
    ModuleGrid,
    RunRecord,
    Status,
    write_run,
)
from mimo_bench.report import rank_layouts
from mimo_bench.scenario import Scenario


class Ledger:
    """Holds a `RunRecord` and keeps `run.json` equal to it."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        names: tuple[str, ...],
        modes: tuple[Mode, ...],
        scenario_file: Path,
        command: tuple[str, ...],
        device_kind: Literal["cpu", "cuda"],
        directory: Path,
        tainted: str | None = None,
        earlier: RunRecord | None = None,
    ) -> None:
        """Open the record of a run over the layouts called `names`; none of them has run, or some have `earlier`."""
        self._directory = directory
        self._earlier = earlier
        self.record = RunRecord(
            scenario=scenario.model_dump(mode="json"),
            scenario_file=str(scenario_file),
            scenario_hash=scenario.content_hash,
            code_hash=hash_of_code(),
            measuring_version=MEASURING_VERSION,
            measuring_hash=hash_of_measuring_code(),
            question=scenario.question,
            started_at=datetime.now(UTC),
            finished_at=None,
            command=command,
            modes=modes,
            tainted=tainted,
            environment=read_environment(device_kind),
            baseline=scenario.baseline,
            layouts=tuple(
                describe(scenario, name, status="not_run", reason="the run has not come to it") for name in names
            ),
        )
        if earlier is not None:
            self.record = go_on(self.record, earlier)
        write_run(directory, self.record)

    @property
    def kept(self) -> tuple[str, ...]:
        """Layouts whose entries come from an earlier invocation, and stay."""
        return self.record.resumptions[-1].kept if self._earlier is not None else ()

    def start(self, name: str) -> None:
        """The layout called `name` is under way; should nothing more be written, that is how it ended."""
        begun = {"status": "interrupted", "reason": "it was under way when this record was last written"}
        self.enter(self._find(name).model_copy(update=begun))

    def enter(self, layout: LayoutRecord) -> LayoutRecord:
        """Put what is now known of a layout in its place, and give it back."""
        self._update(
            layouts=tuple(layout if known.name == layout.name else known for known in self.record.layouts),
        )
        return layout

    def hold_against_earlier(self, baseline: LayoutRecord) -> None:
        """Keep nothing if the baseline, trained again, is not what the kept layouts were held against."""
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

    def note(self, held: HeldAgainst) -> None:
        """What the runs before say of this one."""
        self._update(history=held)

    def _find(self, name: str) -> LayoutRecord:
        return next(layout for layout in self.record.layouts if layout.name == name)

    def _update(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        write_run(self._directory, self.record)


def describe(
    scenario: Scenario, name: str, *, status: Status, reason: str, known: Mapping[str, Any] | None = None
) -> LayoutRecord:
    """What the scenario says of a layout, with its end and what is `known` beyond that."""
    table = scenario.table(name)
    layout = table.grids()
    return LayoutRecord(
        name=name,
        placement=layout.placement,
        world_size=layout.world_size,
        modules={
            module: ModuleGrid(tp=grid.tp, cp=grid.cp, pp=grid.pp, dp=grid.dp, ep=grid.ep, ranks=tuple(grid.ranks))
            for module, grid in layout.modules.items()
        },
        settings=table.settings.model_dump(),
        status=status,
        reason=reason,
        **(known or {}),
    )
