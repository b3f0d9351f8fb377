"""The baseline proves itself: `transformers`, with the same weights and samples, gets the same loss and gradients.

scenario -> layout -> trainer -> meters -> record -> [parity] -> report

A fault that all layouts share cannot show between layouts; it shows here. What is held are the very numbers that
layouts are held against: the loss of the baseline's first parity step and the gradients that it left on disk.
`transformers` computes on a rank, in float64. No torch here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mimo_bench.errors import LaunchError
from mimo_bench.launch.job import Job
from mimo_bench.launch.launcher import DeviceKind, Launcher
from mimo_bench.parity.counterpart import missing_counterpart
from mimo_bench.scenario import Scenario

LOSS_BOUND = 1e-5
"""On the relative error of the loss."""

GRADIENT_BOUND = 1e-5
"""On the relative error of each parameter's gradient."""

MEASURED = "measured.json"
"""What the rank leaves."""

_ENTRY = "mimo_bench.parity.probes.oracle:main"

_HANG_SECONDS = 600.0
"""One sample of the largest model, forward and backward in float64."""


class Measured(BaseModel):
    """How far the baseline's first step is from what `transformers` computes, relative."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    loss_rel: float
    parameter: str
    """Whose gradient is furthest off, by the name of `transformers`."""
    gradient_rel: float
    num_gradients: int


class Held(BaseModel):
    """The verdict on a baseline, with its reason."""

    model_config = ConfigDict(frozen=True)

    verdict: Literal["passed", "failed", "no counterpart"]
    reason: str
    loss_rel: float | None = None
    loss_bound: float | None = None
    gradient_rel: float | None = None
    gradient_bound: float | None = None
    parameter: str | None = None


def hold_baseline(
    launcher: Launcher, scenario: Scenario, *, loss: float, baseline: Path, place: Path, device_kind: DeviceKind
) -> Held:
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
        return Held(verdict="no counterpart", reason=reason)
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
        return Held(verdict="failed", reason=str(error))
    if outcome.ended != "finished":
        return Held(verdict="failed", reason=f"transformers gave nothing to be held against: {outcome.reason}")
    return judge(Measured.model_validate_json((place / MEASURED).read_text(encoding="utf-8")))


def judge(measured: Measured) -> Held:
    """Whether the baseline computes what `transformers` does."""
    wrong = []
    if not measured.loss_rel <= LOSS_BOUND:
        wrong.append(f"the loss is off by {measured.loss_rel:.2g}")
    if not measured.gradient_rel <= GRADIENT_BOUND:
        wrong.append(f"the gradient of {measured.parameter} is off by {measured.gradient_rel:.2g} of its norm")
    agrees = (
        f"loss and {measured.num_gradients} gradients are those of transformers in float64; "
        f"furthest off is {measured.parameter}"
    )
    return Held(
        verdict="failed" if wrong else "passed",
        reason=" and ".join(wrong) or agrees,
        loss_rel=measured.loss_rel,
        loss_bound=LOSS_BOUND,
        gradient_rel=measured.gradient_rel,
        gradient_bound=GRADIENT_BOUND,
        parameter=measured.parameter,
    )
