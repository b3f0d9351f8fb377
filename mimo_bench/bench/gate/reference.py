"""The baseline proves itself: `transformers`, with the same weights and samples, gets the same loss and gradients.

A fault that all layouts share cannot show between layouts; it shows here. What is held are the very numbers that
layouts are held against: the loss of the baseline's first parity step and the gradients that it left on disk.
`transformers` computes on a rank, in float64. No torch here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mimo_bench.launch import DeviceKind, Job, Launcher
from mimo_bench.models import missing_counterpart
from mimo_bench.parity import MEASURED, Measured, judge_reference
from mimo_bench.record import ReferenceVerdict
from mimo_bench.scenario import Scenario
from mimo_bench.util import LaunchError

_ENTRY = "mimo_bench.parity.probes.reference:main"

_HANG_SECONDS = 600.0
"""One sample of the largest model, forward and backward in float64."""


def hold_baseline(
    launcher: Launcher, scenario: Scenario, *, loss: float, baseline: Path, place: Path, device_kind: DeviceKind
) -> ReferenceVerdict:
    """Hold what the baseline left in its folder `baseline` against `transformers`.

    Args:
        launcher: starts the one rank that `transformers` runs on.
        scenario: whose baseline it is.
        loss: of its first parity step.
        baseline: where fingerprint and gradients lie.
        place: takes the rank's log and what it measured.
        device_kind: what it computes on.
    """
    if (reason := missing_counterpart(scenario.shape)) is not None:
        return ReferenceVerdict(verdict="no counterpart", reason=reason)
    arguments: dict[str, Any] = {
        "scenario": scenario.model_dump(mode="json"),
        "weights": scenario.weights_directory,
        "loss": loss,
        "baseline": str(baseline.absolute()),
        "place": str(place.absolute()),
        "device_kind": device_kind,
    }
    job = Job(entry=_ENTRY, arguments=arguments, world_size=1, log_dir=place, hang_seconds=_HANG_SECONDS)
    try:
        outcome = launcher.launch(job)
    except LaunchError as error:
        return ReferenceVerdict(verdict="failed", reason=str(error))
    if outcome.ended != "finished":
        return ReferenceVerdict(verdict="failed", reason=f"transformers gave no result: {outcome.reason}")
    return judge_reference(Measured.model_validate_json((place / MEASURED).read_text(encoding="utf-8")))
