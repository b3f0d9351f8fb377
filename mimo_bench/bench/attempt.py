"""One launch: one layout in one mode goes out to ranks, and their records or a reason come back.

Matrix and worker meet here, through files.
"""

from __future__ import annotations

import time
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
"""The folder of a run's directory where the baseline leaves what others are held against."""

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
    """What has to be set in a rank before its first CUDA or NCCL call."""
    return _GPU_ENVIRONMENT.get(mode, {}) if device_kind == "cuda" else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchResult:
    """How one launch ended; `ranks` is complete if it finished and empty if it did not."""

    outcome: Outcome
    ranks: tuple[RankRecord, ...]
    launch: Launch | None

    @property
    def finished(self) -> bool:
        """Whether every rank left its record."""
        return self.outcome.ended == "finished"


class Attempts:
    """Launches layouts one after the other and knows when the last one took its last step."""

    def __init__(
        self, launcher: Launcher, *, scenario: Scenario, directory: Path, device_kind: DeviceKind, hang_seconds: float
    ) -> None:
        """Launch layouts of `scenario` into `directory`."""
        self._launcher = launcher
        self._scenario = scenario
        self._directory = directory
        self._device_kind = device_kind
        self._hang_seconds = hang_seconds
        self._last_step_at: float | None = None

    def trace(self, case: LayoutCase, *, fault: str | None) -> TraceRecord | None:
        """Return the first parity step of a layout under hooks; None if it cannot be had."""
        place = self._directory / "layouts" / case.name / "parity-trace"
        if fault is not None or not (place / TRACE).exists():
            job = self._job(case, "parity", place=place, fault=fault, variant=None, is_traced=True)
            try:
                outcome = self._launcher.launch(job)
            except LaunchError:
                return None
            if outcome.ended != "finished":
                return None
        return TraceRecord.model_validate_json((place / TRACE).read_text(encoding="utf-8"))

    def run(
        self, case: LayoutCase, mode: Mode, *, fault: str | None, variant: Variant | None = None, repeat: int = 0
    ) -> LaunchResult:
        """Train a layout in `mode`; return when nothing of it runs any more.

        With a `variant`, train only the steps that are compared with the baseline, as that variant. A `repeat` counts
        further launches of the same kind.
        """
        folder = mode if variant is None else f"{mode}-{variant.name}"
        place = self._directory / "layouts" / case.name / (f"{folder}-launch{repeat}" if repeat else folder)
        job = self._job(case, mode, place=place, fault=fault, variant=variant)
        asked_at = time.time()
        try:
            outcome = self._launcher.launch(job)
            ranks = tuple(
                read_rank(place / f"rank{k}.json") for k in range(job.world_size) if outcome.ended == "finished"
            )
        except (LaunchError, RecordError) as error:
            # The next launch gets a new starter: one layout that cannot be launched does not end the others.
            outcome, ranks = Outcome(ended="crashed", reason=str(error), rank=None), ()
        if not ranks:
            return LaunchResult(outcome=outcome, ranks=(), launch=None)
        launch = merge_launch(ranks, asked_at=asked_at, previous_last_step_at=self._last_step_at)
        self._last_step_at = last_step_at(ranks) or self._last_step_at
        return LaunchResult(outcome=outcome, ranks=ranks, launch=launch)

    def _job(
        self,
        case: LayoutCase,
        mode: Mode,
        *,
        place: Path,
        fault: str | None,
        variant: Variant | None,
        is_traced: bool = False,
    ) -> Job:
        scenario = self._scenario if variant is None else variant.scenario
        weights = self._scenario.weights_directory
        request = LaunchRequest(
            scenario=scenario,
            weights=None if weights is None else Path(weights),
            layout=case.name,
            mode=mode,
            device_kind=self._device_kind,
            directory=place,
            baseline=self._directory / BASELINE,
            fault=fault,
            variant=variant.name if variant is not None else None,
            is_traced=is_traced,
        )
        return Job(
            entry=WORKER,
            arguments=request.arguments(),
            # A variant may have other degrees than the layout that it varies.
            world_size=scenario.case(case.name).world_size,
            log_dir=place,
            hang_seconds=self._hang_seconds,
            environment=environment_of(mode, self._device_kind),
        )
