"""The gate as tests use it: layouts of one scenario, with faults or without, against its baseline, on warm ranks."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path

from mimo_bench.attempt import Attempts
from mimo_bench.launch import Launcher
from mimo_bench.layout_run import Account, LayoutRunner, Reference
from mimo_bench.parity.planting import Planting
from mimo_bench.scenario import Scenario


class Gate:
    """Trains each layout with each fault once at most."""

    def __init__(self, launcher: Launcher, scenario: Scenario, folder: Path, *, hang_seconds: float = 60.0) -> None:
        scenario.check()
        self._scenario = scenario
        self.attempts = Attempts(
            launcher, scenario=scenario, directory=folder, device_kind="cpu", hang_seconds=hang_seconds
        )
        self.judge = cache(self._judge)

    @cached_property
    def baseline(self) -> Account:
        """The baseline, with its noise."""
        return self.runner(self._scenario.baseline, None).run(self._scenario.baseline, None)

    @property
    def reference(self) -> Reference:
        """What layouts are held against."""
        assert self.baseline.reference is not None, self.baseline.reason
        return self.baseline.reference

    def runner(self, layout: str, fault: str | None, *, second_pass: bool = False) -> LayoutRunner:
        """What trains `layout` with the fault `module:function`."""
        return LayoutRunner(
            scenario=self._scenario,
            modes=("parity",),
            attempts=self.attempts,
            planting=Planting(fault=fault, layout=layout),
            on_event=lambda _: None,
            second_pass=second_pass,
        )

    def _judge(self, layout: str, fault: str | None = None, *, second_pass: bool = False) -> Account:
        return self.runner(layout, fault, second_pass=second_pass).run(layout, self.reference)
