"""Variants of the baseline that need more memory than there is are left out of the band, and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_bench.attempt import Attempt, Attempts
from mimo_bench.launch import Launcher
from mimo_bench.launch.job import Outcome
from mimo_bench.layout_run import Account, LayoutRunner
from mimo_bench.parity.planting import Planting
from mimo_bench.record.schema import Mode
from mimo_bench.scenario import Scenario
from tests.distributed.trainer_job import scenario

SCENARIO = scenario({"colocated": ({"dp": 2}, {"dp": 2})}, steps={"parity": 2, "warmup": 0, "timed": 2})


class Starved(Attempts):
    """Ends the launches of some variants for want of memory, in one mode."""

    def __init__(self, *, mode: Mode, too_large: set[str], **options: Any) -> None:
        super().__init__(**options)
        self._mode, self._too_large = mode, too_large

    def run(self, name: str, mode: Mode, **options: Any) -> Attempt:
        """As it would end, or without memory."""
        variant = options.get("variant")
        if variant is not None and mode == self._mode and variant.name in self._too_large:
            return Attempt(outcome=Outcome(ended="oom", reason="rank 0 asked for 9 GiB", rank=0), ranks=(), launch=None)
        return super().run(name, mode, **options)


@pytest.mark.parametrize("mode", ["parity", "timing"])
def test_a_variant_without_memory_is_named_and_the_others_set_the_band(
    launcher: Launcher, tmp_path: Path, mode: Mode
) -> None:
    account = run(SCENARIO, launcher, tmp_path, mode=mode, too_large={"micro-batches", "tensor-parallel"})
    assert account.status == "passed"
    assert account.reference is not None
    assert account.reference.band is not None
    assert account.parity is not None
    assert account.parity.as_timed is not None
    said = {"parity": account.parity.reason, "timing": account.parity.as_timed.reason}[mode]
    assert said.endswith("; without micro-batches and tensor-parallel, for which there was no memory")


def test_without_memory_for_any_variant_nothing_can_be_held_against_the_baseline(
    launcher: Launcher, tmp_path: Path
) -> None:
    every = {"jitter", "micro-batches", "tensor-parallel"}
    account = run(SCENARIO, launcher, tmp_path, mode="timing", too_large=every)
    assert account.status == "parity_failed"
    assert account.reference is None
    assert "no variant" in account.reason


def run(made: Scenario, launcher: Launcher, folder: Path, *, mode: Mode, too_large: set[str]) -> Account:
    attempts = Starved(
        mode=mode,
        too_large=too_large,
        launcher=launcher,
        scenario=made,
        directory=folder,
        device_kind="cpu",
        hang_seconds=60.0,
    )
    runner = LayoutRunner(
        scenario=made,
        modes=("parity", "timing"),
        attempts=attempts,
        planting=Planting.of(None),
        on_event=lambda _: None,
    )
    return runner.run(made.baseline, None)
