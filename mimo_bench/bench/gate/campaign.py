"""Campaigns: trials of layouts on warm ranks, with an account that is written after every trial and can be resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mimo_bench.bench.attempt import BASELINE, Attempts, Training, launch_together
from mimo_bench.bench.layout_run import LayoutResult, LayoutRunner, Reference
from mimo_bench.bench.request import HANG_SECONDS
from mimo_bench.launch import DeviceKind, Launcher
from mimo_bench.parity import Planting
from mimo_bench.record import Mode
from mimo_bench.scenario import Scenario
from mimo_bench.util import UsageError, write_atomically


@dataclass(frozen=True, kw_only=True, slots=True)
class Campaign:
    """Ranks of a campaign, and the directory of its account."""

    directory: Path
    device_kind: DeviceKind
    hang_seconds: float = HANG_SECONDS
    command: tuple[str, ...] = ()

    def launcher(self) -> Launcher:
        """Return warm ranks for all trials."""
        return Launcher(device_kind=self.device_kind)

    @contextmanager
    def bench(
        self, launcher: Launcher, scenario: Scenario, folder: str = ".", *, keeps_logs: bool = False
    ) -> Iterator[TestBench]:
        """Return the test bench of a scenario; afterwards only logs are left in its folder, if anything."""
        directory = self.directory / folder
        attempts = Attempts(
            launcher,
            scenario=scenario,
            directory=directory,
            device_kind=self.device_kind,
            hang_seconds=self.hang_seconds,
        )
        try:
            yield TestBench(scenario=scenario, directory=directory, attempts=attempts)
        finally:
            # The baseline's gradients are as large as the model, also if the campaign is stopped.
            for left in (BASELINE,) if keeps_logs else (BASELINE, "layouts"):
                shutil.rmtree(directory / left, ignore_errors=True)


@dataclass(kw_only=True, slots=True)
class TestBench:
    """Layouts of one scenario, clean or with a fault, judged by its baseline."""

    __test__ = False  # no test, whatever pytest takes its name for

    scenario: Scenario
    directory: Path
    attempts: Attempts
    reference: Reference | None = None
    """The baseline's results; None until `judge` has judged it, and if it is unsound."""
    _shared: set[tuple[str, str]] = field(default_factory=set)

    def judge(self, layout: str, fault: str | None = None, *, modes: tuple[Mode, ...] = ("parity",)) -> LayoutResult:
        """Train a layout in `modes`, with the fault `module:function` if any, and judge it."""
        runner = LayoutRunner(
            scenario=self.scenario,
            modes=modes,
            attempts=self.attempts,
            planting=Planting(fault=fault, layout=layout),
            on_event=lambda _: None,
            second_pass=False,
        )
        result = runner.run(self.scenario.case(layout), self.reference)
        self.reference = self.reference or result.reference
        return result

    def share_launch(self, layout: str, faults: Sequence[str]) -> LayoutResult | None:
        """Train a layout with each of `faults` and clean in one launch, for later calls of `judge` in parity mode.

        A fault shares one launch at most.

        Returns:
            The clean layout, trained last: it passes only if every fault was undone. If it does not, or a fault ended
            the launch early, nothing is kept and `judge` launches each alone. None if the launch ended early.
        """
        case = self.scenario.case(layout)
        first = [fault for fault in faults if (layout, fault) not in self._shared]
        self._shared.update((layout, fault) for fault in first)
        trainings = [Training(case=case, mode="parity", fault=fault) for fault in (*first, None)]
        if not launch_together([(self.attempts, training) for training in trainings]):
            return None
        clean = self.judge(layout)
        if clean.status != "passed":
            self.attempts.made.clear()
        return clean

    def has_trained(self, layout: str, fault: str) -> bool:
        """Return True if a shared launch has trained the layout with the fault, and `judge` will not launch it."""
        return Training(case=self.scenario.case(layout), mode="parity", fault=fault).key in self.attempts.made


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountFile[T]:
    """Files of an account: `<name>.json`, which --resume reads, and pages for people."""

    name: str
    content: TypeAdapter[T]
    pages: Callable[[T], Mapping[str, str]]
    """Return texts by suffix."""

    def write(self, directory: Path, account: T) -> None:
        """Replace the account and its pages."""
        write_atomically(directory / f"{self.name}.json", self.content.dump_json(account, indent=1))
        for suffix, text in self.pages(account).items():
            write_atomically(directory / f"{self.name}.{suffix}", text.encode())

    def read(self, directory: Path) -> T | None:
        """Return the account to resume; None if there is none.

        Raises:
            UsageError: it cannot be read.
        """
        path = directory / f"{self.name}.json"
        try:
            return self.content.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise UsageError(f"--resume: {path}: not a valid {path.name}: {error}; name another --out") from None
