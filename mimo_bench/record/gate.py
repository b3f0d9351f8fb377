"""Accounts of the campaigns that prove the gate: `selftest.json`, `mutants.json` and `alarms.json`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mimo_bench.record.schema.parity import ReferenceVerdict
from mimo_bench.record.schema.run import Environment

Origin = Literal["given", "companion"]
"""Scenario of a layout: the one that the command names, or the companion."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)


class Trial(_Entry):
    """One layout with a fault, or clean."""

    scenario: Origin
    fault: str | None
    layout: str
    expected: str
    """Check that must catch the fault; `passed` for a clean layout."""
    found: str
    """Check that caught it, or how the layout ended."""
    reason: str

    @property
    def is_right(self) -> bool:
        """True if the gate said what it should."""
        return self.found == self.expected


class HeldBaseline(_Entry):
    """The baseline of a scenario, compared with `transformers`."""

    scenario: Origin
    layout: str
    model: str
    held: ReferenceVerdict

    @property
    def is_right(self) -> bool:
        """True unless `transformers` computes something else; a model that it lacks fails nothing."""
        return self.held.verdict != "failed"


Finding = Trial | HeldBaseline


class Selftest(_Entry):
    """Content of `selftest.json`."""

    command: tuple[str, ...]
    trials: tuple[Trial, ...]
    baselines: tuple[HeldBaseline, ...]
    num_planned: int | None = None
    """Trials of the plan; None in accounts of before it was counted, which are complete."""

    @property
    def is_complete(self) -> bool:
        """True if there are trials and none of the plan is missing."""
        return bool(self.trials) and len(self.trials) >= (self.num_planned or 0)

    @property
    def is_right(self) -> bool:
        """True if the account is complete and everything ended as expected."""
        findings: tuple[Finding, ...] = (*self.trials, *self.baselines)
        return self.is_complete and all(finding.is_right for finding in findings)

    @property
    def summary(self) -> str:
        """Number of trials that ended as expected, and of baselines that agree with `transformers`."""
        num_right = sum(trial.is_right for trial in self.trials)
        num_proven = sum(one.held.verdict == "passed" for one in self.baselines)
        return (
            f"{num_right} of {len(self.trials)} as expected"
            + ("; " if self.is_complete else f", of {self.num_planned or 0} planned; ")
            + f"{num_proven} of {len(self.baselines)} baselines agree with transformers"
        )


class Call(_Entry):
    """One place that calls one collective on the groups of one role."""

    collective: str
    role: str
    """`language.tp`, `bridge.vision->language`, ...; `world` for all ranks."""
    site: str
    """File, function and line."""
    size: int
    """Ranks of the group."""
    is_repeatable: bool
    """True if a second call changes nothing: it copies, takes a maximum, or writes nothing that it reads."""


class Mutant(_Entry):
    """One call, broken."""

    call: Call
    how: Literal["skip", "double", "wrong group"]

    @property
    def bug(self) -> tuple[str, str, str, str]:
        """Key that is equal in every layout: the role of the groups, the collective, the line, and the break."""
        return self.call.role, self.call.collective, self.call.site, self.how


class MutantTrial(_Entry):
    """One mutant in one layout, and how it ended."""

    layout: str
    mutant: Mutant
    ended: str
    """Check that caught it, `crashed` or `timeout`; `passed` if it survived."""
    reason: str

    @property
    def survived(self) -> bool:
        """True if the gate did not notice the mutant."""
        return self.ended == "passed"


def survivors_of(trials: Iterable[MutantTrial]) -> list[MutantTrial]:
    """Return the trials of those mutants that no layout caught."""
    trials = list(trials)
    caught = {trial.mutant.bug for trial in trials if not trial.survived}
    return [trial for trial in trials if trial.mutant.bug not in caught]


def num_mutants(trials: Iterable[MutantTrial]) -> int:
    """Return the number of mutants, each tried in one layout or in several."""
    return len({trial.mutant.bug for trial in trials})


class CleanRun(_Entry):
    """One layout with one seed, without any fault."""

    seed: int
    layout: str
    is_baseline: bool = False
    status: str
    reason: str
    shares: dict[str, float]
    """Largest difference from the baseline over its bound, by quantity: above 1 the gate fails a layout."""


class Session(_Entry):
    """The command, code and machine that made a part of an account."""

    command: tuple[str, ...]
    scenario_hash: str
    code_hash: str
    environment: Environment


class Alarms(Session):
    """Content of `alarms.json`: all clean runs so far, and the last session."""

    earlier: tuple[Session, ...] = ()
    """Sessions that the last one resumed, first to last."""
    as_timed: bool = False
    """True if layouts had to pass as timed, too."""
    num_runs: int
    """Runs that could have failed by mistake, so without baselines: they were compared with nothing."""
    num_alarms: int
    """Runs of them that did not pass, for whatever reason."""
    num_baselines: int = 0
    num_unfit: int = 0
    """Baselines that prove nothing with their seed, so that no layout was judged with it."""
    rate: float
    rate_upper_bound: float
    """Exact (Clopper-Pearson), one-sided, at 95 % confidence."""
    runs: tuple[CleanRun, ...]

    @property
    def by_quantity(self) -> dict[str, list[float]]:
        """Shares of all runs, by quantity."""
        names = dict.fromkeys(name for run in self.runs for name in run.shares)
        return {name: [run.shares[name] for run in self.runs if name in run.shares] for name in names}
