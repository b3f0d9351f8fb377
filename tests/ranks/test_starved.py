"""Variants of the baseline that need more memory than there is are left out of the band, and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mimo_bench.bench.attempt import Attempts, LaunchResult
from mimo_bench.bench.layout_run import LayoutResult, LayoutRunner
from mimo_bench.launch import Launcher
from mimo_bench.launch.job import Outcome
from mimo_bench.parity.faults.catalogue import Planting
from mimo_bench.record import Mode
from mimo_bench.scenario import LayoutCase
from tests.ranks.trainer_job import scenario

SCENARIO = scenario({"colocated": ({"dp": 2}, {"dp": 2})}, steps={"parity": 2, "warmup": 0, "timed": 2})


class Starved(Attempts):
    """Ends the launches of some variants for want of memory, in one mode; trains what does not end so once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.mode: Mode = "parity"
        self.too_large: set[str] = set()
        self._known: dict[tuple[Mode, str | None], LaunchResult] = {}

    def run(self, case: LayoutCase, mode: Mode, **options: Any) -> LaunchResult:
        """As it would end, or without memory."""
        variant = options["variant"].name if options.get("variant") is not None else None
        if mode == self.mode and variant in self.too_large:
            return LaunchResult(
                outcome=Outcome(ended="oom", reason="rank 0 asked for 9 GiB", rank=0), ranks=(), launch=None
            )
        if (mode, variant) not in self._known:
            self._known[mode, variant] = super().run(case, mode, **options)
        return self._known[mode, variant]


Run = Callable[..., LayoutResult]


@pytest.fixture(scope="module")
def run(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the baseline while some variants are too large in one mode."""
    attempts = Starved(
        launcher=launcher,
        scenario=SCENARIO,
        directory=tmp_path_factory.mktemp("starved"),
        device_kind="cpu",
        hang_seconds=60.0,
    )

    def run(*, mode: Mode, too_large: set[str]) -> LayoutResult:
        attempts.mode, attempts.too_large = mode, too_large
        runner = LayoutRunner(
            scenario=SCENARIO,
            modes=("parity", "timing"),
            attempts=attempts,
            planting=Planting.of(None),
            on_event=lambda _: None,
        )
        return runner.run(SCENARIO.case(SCENARIO.baseline), None)

    return run


@pytest.mark.parametrize("mode", ["parity", "timing"])
def test_a_variant_without_memory_is_named_and_the_others_set_the_band(run: Run, mode: Mode) -> None:
    account = run(mode=mode, too_large={"micro-batches", "tensor-parallel"})
    assert account.status == "passed"
    assert account.reference is not None
    assert account.reference.timed_bounds is not None
    assert account.parity is not None
    assert account.parity.as_timed is not None
    said = {"parity": account.parity.reason, "timing": account.parity.as_timed.reason}[mode]
    assert said.endswith("; without micro-batches and tensor-parallel, for which there was no memory")


def test_without_memory_for_any_variant_nothing_can_be_held_against_the_baseline(run: Run) -> None:
    account = run(mode="timing", too_large={"jitter", "micro-batches", "tensor-parallel"})
    assert account.status == "parity_failed"
    assert account.reference is None
    assert "no variant" in account.reason
