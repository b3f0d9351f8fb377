"""What a selftest found, for people and for programs: every fault and every baseline with its verdict."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from mimo_bench.record import ReferenceVerdict
from mimo_bench.report.markdown import table

Origin = Literal["given", "companion"]
"""Whose layout it is: of the scenario at hand, or of the companion."""


class Trial(BaseModel):
    """One layout with one fault, or without any."""

    model_config = ConfigDict(frozen=True)

    scenario: Origin
    fault: str | None
    layout: str
    expected: str
    """The check that must catch it; `passed` for a clean run."""
    found: str
    """The check that did, or how the layout ended."""
    reason: str

    @property
    def is_right(self) -> bool:
        """Whether the gate said what it should."""
        return self.found == self.expected


class HeldBaseline(BaseModel):
    """The baseline of one of the scenarios, against `transformers`."""

    model_config = ConfigDict(frozen=True)

    scenario: Origin
    layout: str
    model: str
    held: ReferenceVerdict

    @property
    def is_right(self) -> bool:
        """Whether it is what it should be, or nobody can say."""
        return self.held.verdict != "failed"


Finding = Trial | HeldBaseline


class Selftest(BaseModel):
    """All that was tried: what `selftest.json` holds."""

    model_config = ConfigDict(frozen=True)

    command: tuple[str, ...]
    trials: tuple[Trial, ...]
    baselines: tuple[HeldBaseline, ...]

    @property
    def is_right(self) -> bool:
        """Whether everything was as expected, and anything was tried."""
        are_right = all(trial.is_right for trial in self.trials) and all(one.is_right for one in self.baselines)
        return bool(self.trials) and are_right

    @property
    def summary(self) -> str:
        """How many trials were as expected, and how many baselines are what `transformers` computes."""
        num_right = sum(trial.is_right for trial in self.trials)
        num_proven = sum(one.held.verdict == "passed" for one in self.baselines)
        return (
            f"{num_right} of {len(self.trials)} as expected; "
            f"{num_proven} of {len(self.baselines)} baselines held by transformers"
        )


def describe_finding(finding: Finding) -> str:
    """A line for a terminal."""
    mark = "ok  " if finding.is_right else "FAIL"
    where = finding.layout if finding.scenario == "given" else f"{finding.layout} of the companion"
    if isinstance(finding, Trial):
        return f"{mark} {finding.fault or 'no fault'} in {where}: {finding.found}: {finding.reason}"
    held = finding.held
    return (
        f"{mark if held.verdict != 'no counterpart' else '-   '} transformers on {where}: {held.verdict}: {held.reason}"
    )


def render(selftest: Selftest) -> str:
    """The tables of trials and of baselines as Markdown."""
    trials = [
        (
            trial.fault or "none",
            trial.layout if trial.scenario == "given" else f"{trial.layout} ({trial.scenario})",
            trial.expected,
            trial.found,
            "yes" if trial.is_right else "NO",
            trial.reason,
        )
        for trial in selftest.trials
    ]
    baselines = table(
        ("model", "loss", "bound", "worst gradient", "bound", "verdict", "reason"),
        map(_baseline_row, selftest.baselines),
    )
    parts = [
        f"# Selftest: {selftest.summary}",
        f"Made by `{' '.join(selftest.command)}`.",
        table(("fault", "layout", "expected", "found", "as expected", "reason"), trials),
        "## Baselines against transformers",
        "Relative errors of the first step: of its loss, and of the parameter whose gradient is furthest off.",
        baselines,
    ]
    return "\n\n".join(parts) + "\n"


def _baseline_row(one: HeldBaseline) -> tuple[str, ...]:
    held = one.held
    numbers = (held.loss_rel, held.loss_bound, held.gradient_rel, held.gradient_bound)
    loss, loss_bound, gradient, gradient_bound = ("-" if value is None else f"{value:.1e}" for value in numbers)
    model = f"{one.model} ({one.scenario})"
    return model, loss, loss_bound, gradient, gradient_bound, held.verdict, held.reason
