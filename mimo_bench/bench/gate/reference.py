"""Comparison of a baseline with `transformers`: from the same weights and samples, the same loss and gradients.

A fault that all layouts share shows here only. The numbers are those that layouts are compared with: the loss of the
baseline's first parity step, and its gradients on disk. `transformers` computes on a rank, in float64.
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
"""Longer than a sample of the largest model takes, forward and backward in float64."""


def compare_baseline(
    launcher: Launcher, scenario: Scenario, *, loss: float, baseline: Path, place: Path, device_kind: DeviceKind
) -> ReferenceVerdict:
    """Compare the results in the baseline's folder with `transformers`.

    Args:
        launcher: starts the rank that `transformers` runs on.
        scenario: the baseline's.
        loss: the baseline's, of its first parity step.
        baseline: folder with its fingerprint and gradients.
        place: folder for the rank's log and its measurements.
        device_kind: device of the rank.
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
