"""Launches of layouts: requests go out to ranks, and their records or a reason come back, through files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mimo_bench.bench.request import LaunchRequest
from mimo_bench.launch import DeviceKind, Job, Launcher, Outcome
from mimo_bench.parity import TRACE, TraceRecord, Variant
from mimo_bench.record import Launch, Mode, RankRecord, last_step_at, merge_launch, read_rank
from mimo_bench.scenario import LayoutCase, Scenario
from mimo_bench.util import LaunchError, RecordError

WORKER = "mimo_bench.bench.ranks.worker:main"

BASELINE = "baseline"
"""Folder of a run's directory with the baseline's results that others are compared with."""

_GPU_ENVIRONMENT: dict[Mode, dict[str, str]] = {
    # One algorithm and fixed workspaces, so sums keep their order.
    "parity": {
        "NCCL_ALGO": "Ring",
        "NCCL_PROTO": "Simple",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    },
    "timing": {"CUDA_DEVICE_MAX_CONNECTIONS": "1"},
    # torch's flight recorder keeps every collective, with its duration on the device.
    "comm": {
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "TORCH_FR_BUFFER_SIZE": "200000",
        "TORCH_NCCL_ENABLE_TIMING": "1",
    },
}


def environment_of(mode: Mode, device_kind: DeviceKind) -> dict[str, str]:
    """Return the variables that a rank needs before its first CUDA or NCCL call."""
    return _GPU_ENVIRONMENT.get(mode, {}) if device_kind == "cuda" else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchResult:
    """End of one launch; `ranks` is complete if it finished, and otherwise empty."""

    outcome: Outcome
    ranks: tuple[RankRecord, ...]
    launch: Launch | None

    @property
    def finished(self) -> bool:
        """True if every rank left its record."""
        return self.outcome.ended == "finished"


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One training of a layout in one mode: as it is, with a fault, or as a variant of the baseline."""

    case: LayoutCase
    mode: Mode
    fault: str | None = None
    variant: Variant | None = None

    @property
    def key(self) -> tuple[str | None, ...]:
        """Values that distinguish it from the other trainings of a scenario."""
        return self.case.name, self.mode, self.fault, None if self.variant is None else self.variant.name

    @property
    def folder(self) -> str:
        """Folder of its records, below the layout's."""
        return self.mode if self.variant is None else f"{self.mode}-{self.variant.name}"


class Attempts:
    """Launches layouts of a scenario one after the other, and keeps the time of the last step of the last one."""

    def __init__(
        self, launcher: Launcher, *, scenario: Scenario, directory: Path, device_kind: DeviceKind, hang_seconds: float
    ) -> None:
        """Launch layouts of `scenario` into `directory`."""
        self._launcher = launcher
        self.scenario = scenario
        self._directory = directory
        self._device_kind = device_kind
        self._hang_seconds = hang_seconds
        self._last_step_at: float | None = None
        self.made: dict[tuple[str | None, ...], LaunchResult] = {}
        """Results of shared launches, by the key of their training, until `run` returns them."""

    def trace(self, case: LayoutCase, *, fault: str | None) -> TraceRecord | None:
        """Return the first parity step of a layout under hooks; None if its ranks did not finish."""
        training = Training(case=case, mode="parity", fault=fault)
        request = self.request(training, "parity-trace", is_traced=True)
        trace = request.directory / TRACE
        if fault is not None or not trace.exists():
            try:
                outcome = self.launch([request])
            except LaunchError:
                return None
            if outcome.ended != "finished":
                return None
        return TraceRecord.model_validate_json(trace.read_text(encoding="utf-8"))

    def run(
        self, case: LayoutCase, mode: Mode, *, fault: str | None, variant: Variant | None = None, repeat: int = 0
    ) -> LaunchResult:
        """Train a layout in `mode`; return when nothing of it runs any more.

        With a `variant`, train only the steps that are compared with the baseline, as that variant. A `repeat` counts
        further launches of the same kind. A training that `launch_together` has made is not launched again.
        """
        training = Training(case=case, mode=mode, fault=fault, variant=variant)
        if not repeat and (made := self.made.pop(training.key, None)) is not None:
            return made
        request = self.request(training, f"{training.folder}-launch{repeat}" if repeat else training.folder)
        asked_at = time.time()
        try:
            outcome = self.launch([request])
            if outcome.ended == "finished":
                return self.result(request, outcome, asked_at)
        except (LaunchError, RecordError) as error:
            # The next launch gets a new starter: one layout that cannot be launched does not end the others.
            outcome = Outcome(ended="crashed", reason=str(error), rank=None)
        return LaunchResult(outcome=outcome, ranks=(), launch=None)

    def result(self, request: LaunchRequest, outcome: Outcome, asked_at: float) -> LaunchResult:
        """Return the records that the ranks of a finished launch left for a request.

        Raises:
            RecordError: one of them cannot be read.
        """
        num_ranks = request.scenario.case(request.layout).world_size
        ranks = tuple(read_rank(request.directory / f"rank{k}.json") for k in range(num_ranks))
        launch = merge_launch(ranks, asked_at=asked_at, previous_last_step_at=self._last_step_at)
        self._last_step_at = last_step_at(ranks) or self._last_step_at
        return LaunchResult(outcome=outcome, ranks=ranks, launch=launch)

    def request(self, training: Training, folder: str, *, is_traced: bool = False) -> LaunchRequest:
        """Return the request of a training whose ranks leave their records in `folder`."""
        variant, weights = training.variant, self.scenario.weights_directory
        return LaunchRequest(
            scenario=self.scenario if variant is None else variant.scenario,
            weights=None if weights is None else Path(weights),
            layout=training.case.name,
            mode=training.mode,
            device_kind=self._device_kind,
            directory=self._directory / "layouts" / training.case.name / folder,
            baseline=self._directory / BASELINE,
            fault=training.fault,
            variant=variant.name if variant is not None else None,
            is_traced=is_traced,
        )

    def launch(self, requests: Sequence[LaunchRequest]) -> Outcome:
        """Have ranks serve requests of the same mode and grids, one after the other.

        Raises:
            LaunchError: no rank could be started.
        """
        first = requests[0]
        job = Job(
            entry=WORKER,
            arguments={"requests": [request.arguments() for request in requests]},
            # A variant may have other degrees than the layout that it varies.
            world_size=first.scenario.case(first.layout).world_size,
            log_dir=first.directory,
            hang_seconds=self._hang_seconds,
            environment=environment_of(first.mode, self._device_kind),
        )
        return self._launcher.launch(job)


def launch_together(trainings: Sequence[tuple[Attempts, Training]]) -> bool:
    """Make trainings of the same mode and grids in one launch, for later calls of `run`.

    Ranks keep their process groups, and build a trainer for each training.

    Returns:
        False if a training ended the launch early: nothing is kept, so `run` launches each alone.
    """
    requests = [
        attempts.request(training, f"{training.folder}-shared{index}")
        for index, (attempts, training) in enumerate(trainings)
    ]
    for request in requests:
        request.directory.mkdir(parents=True, exist_ok=True)
    asked_at = time.time()
    try:
        outcome = trainings[0][0].launch(requests)
        if outcome.ended != "finished":
            return False
        pairs = zip(trainings, requests, strict=True)
        made = [attempts.result(request, outcome, asked_at) for (attempts, _), request in pairs]
    except (LaunchError, RecordError):
        return False
    for (attempts, training), result in zip(trainings, made, strict=True):
        attempts.made[training.key] = result
    return True
