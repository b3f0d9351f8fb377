"""The gate as tests use it: layouts of one scenario, with faults or without, against its baseline, on warm ranks."""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path

from mimo_bench.bench.attempt import BASELINE, Attempts, LaunchResult
from mimo_bench.bench.layout_run import LayoutResult, LayoutRunner, Reference
from mimo_bench.launch import Launcher
from mimo_bench.parity.faults.catalogue import Planting
from mimo_bench.parity.tolerance import LATE_LIMITS, PARITY_FLOOR
from mimo_bench.record.merge import merge_training
from mimo_bench.scenario.scenario import LayoutCase, Scenario


class Gate:
    """Trains each layout with each fault once at most. No noise is measured: the bounds are the least there are."""

    def __init__(self, launcher: Launcher, scenario: Scenario, folder: Path, *, hang_seconds: float = 60.0) -> None:
        scenario.check()
        self._scenario = scenario
        self.folder = folder
        self.attempts = Attempts(
            launcher, scenario=scenario, directory=folder, device_kind="cpu", hang_seconds=hang_seconds
        )
        self.judge = cache(self._judge)

    def case(self, layout: str) -> LayoutCase:
        """The layout called `layout`, resolved."""
        return self._scenario.case(layout)

    @cached_property
    def baseline(self) -> LaunchResult:
        """The baseline, trained."""
        attempt = self.attempts.run(self.case(self._scenario.baseline), "parity", fault=None)
        assert attempt.finished, attempt.outcome.reason
        return attempt

    @cached_property
    def reference(self) -> Reference:
        """The trained baseline and the tolerance that layouts are compared with."""
        trained = merge_training(self.baseline.ranks, num_parity_steps=self._scenario.steps.parity)
        assert trained.mismatch is None
        assert trained.disagreement is None
        late = self.folder / BASELINE / "late_updates.json"
        names = json.loads(late.read_text()) if late.exists() else {}
        return Reference(
            trained=trained,
            tolerance=PARITY_FLOOR.model_copy(update={"right_tokens": 1}),
            # A key's bias has a gradient of rounding alone, which Adam turns into full steps in any direction.
            late_bounds={"norm": {name: LATE_LIMITS.floor for name in names if not name.endswith("linear_qkv.bias")}},
        )

    def _judge(self, layout: str, fault: str | None = None, *, second_pass: bool = False) -> LayoutResult:
        """Train `layout` with the fault `module:function` and judge it."""
        runner = LayoutRunner(
            scenario=self._scenario,
            modes=("parity",),
            attempts=self.attempts,
            planting=Planting(fault=fault, layout=layout),
            on_event=lambda _: None,
            second_pass=second_pass,
        )
        return runner.run(self.case(layout), self.reference)
