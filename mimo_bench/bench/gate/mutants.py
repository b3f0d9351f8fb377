"""Mutation of the gate: break every collective of a training step and count what the gate catches."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mimo_bench.bench.attempt import Attempts
from mimo_bench.bench.layout_run import LayoutResult, LayoutRunner, Reference
from mimo_bench.launch import DeviceKind, Launcher
from mimo_bench.parity import SURVEY, Call, Mutant, Planting, mutants_of
from mimo_bench.report import first_line, table
from mimo_bench.scenario import Evaluation, Scenario
from mimo_bench.util import UsageError, write_atomically

ACCOUNT = "mutants.json"
"""The file that another run goes on from."""

NUM_STEPS = 3
"""Parity steps of a mutant: enough for a wrong update to show in the losses that follow."""


class MutantTrial(BaseModel):
    """One mutant in one layout, and how it ended."""

    model_config = ConfigDict(frozen=True)

    layout: str
    mutant: Mutant
    ended: str
    """The check that caught it, `crashed` or `timeout`; `passed` if it survived."""
    reason: str

    @property
    def survived(self) -> bool:
        """Whether the gate took it for the baseline's model."""
        return self.ended == "passed"


Places = tuple[tuple[str, Mutant], ...]
"""One mutant in each of the layouts that make its call, in the order in which they are tried."""


def run_mutants(
    scenario: Scenario,
    layouts: Sequence[str],
    *,
    device_kind: DeviceKind,
    directory: Path,
    hang_seconds: float,
    command: tuple[str, ...],
    seconds: float | None,
    on_trial: Callable[[MutantTrial], None],
    known: Sequence[MutantTrial] = (),
) -> list[MutantTrial]:
    """Plant every mutant of every collective call of `layouts`; leave `mutants.md` and `mutants.json` in `directory`.

    A call that several layouts make alike is broken in the first of them, and where it survives there, in the next.
    After `seconds` no further one is begun. Mutants whose trial is `known` are not run again; of those known, what is
    no longer planned is dropped.
    """
    short = scenario.steps.model_copy(update={"parity": NUM_STEPS, "learning": 0})
    scenario = Scenario.model_validate({**dict(scenario), "steps": short, "evaluation": Evaluation(num_batches=0)})
    until = None if seconds is None else time.monotonic() + seconds
    with Launcher(device_kind=device_kind) as launcher:
        attempts = Attempts(
            launcher, scenario=scenario, directory=directory, device_kind=device_kind, hang_seconds=hang_seconds
        )
        reference = _run(scenario, attempts, scenario.baseline, None, None).reference
        planned = plan((name, _calls_of(scenario, name, attempts, reference, directory)) for name in layouts)
        trials = still_planned(known, planned)
        _write(directory, trials, len(planned), command)
        while (place := next_place(planned, trials)) is not None and (until is None or time.monotonic() < until):
            layout, mutant = place
            trial = _trial(layout, mutant, _run(scenario, attempts, layout, mutant.place, reference))
            on_trial(trial)
            trials.append(trial)
            _write(directory, trials, len(planned), command)
    for left in ("layouts", "baseline", "calls"):
        shutil.rmtree(directory / left, ignore_errors=True)
    return trials


def plan(calls: Iterable[tuple[str, Iterable[Call]]]) -> list[Places]:
    """Every mutant of the calls of each layout, with the layouts to plant it in."""
    places: dict[tuple[str, ...], list[tuple[str, Mutant]]] = {}
    for layout, made in calls:
        for mutant in mutants_of(made):
            places.setdefault(mutant.bug, []).append((layout, mutant))
    return [tuple(found) for found in places.values()]


def next_place(planned: Iterable[Places], trials: Iterable[MutantTrial]) -> tuple[str, Mutant] | None:
    """The next mutant to run, and the layout to plant it in; None if each was caught or has survived everywhere."""
    survived = {(trial.layout, trial.mutant): trial.survived for trial in trials}
    for places in planned:
        if not any(survived.get(place) is False for place in places):
            untried = [place for place in places if place not in survived]
            if untried:
                return untried[0]
    return None


def still_planned(known: Iterable[MutantTrial], planned: Iterable[Places]) -> list[MutantTrial]:
    """Of the trials that are known, those whose mutant is still planned in their layout, in the order of the plan."""
    by_place = {(trial.layout, trial.mutant): trial for trial in known}
    return [by_place[place] for places in planned for place in places if place in by_place]


def survivors_of(trials: Iterable[MutantTrial]) -> list[MutantTrial]:
    """The trials of those mutants that no layout caught."""
    trials = list(trials)
    caught = {trial.mutant.bug for trial in trials if not trial.survived}
    return [trial for trial in trials if trial.mutant.bug not in caught]


def count(trials: Iterable[MutantTrial]) -> int:
    """How many mutants were tried, each of them in one layout or in several."""
    return len({trial.mutant.bug for trial in trials})


def read_trials(directory: Path) -> list[MutantTrial]:
    """The trials of the account in `directory`, to go on from.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    path = directory / ACCOUNT
    try:
        return TypeAdapter(list[MutantTrial]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(f"--resume: {path}: is no account to go on from: {error}") from None


def _calls_of(
    scenario: Scenario, layout: str, attempts: Attempts, reference: Reference | None, directory: Path
) -> set[Call]:
    """Every call of a training step in `layout`, which first passes under the survey, unbroken."""
    place = directory / "calls" / layout
    place.mkdir(parents=True, exist_ok=True)
    account = _run(scenario, attempts, layout, f"{SURVEY}:{place.absolute()}", reference)
    assert account.status == "passed", f"{layout} does not pass unbroken: {account.reason}"
    return {
        Call.model_validate(call)
        for path in place.glob("calls*.json")
        for call in json.loads(path.read_text(encoding="utf-8"))
    }


def _run(
    scenario: Scenario, attempts: Attempts, layout: str, fault: str | None, reference: Reference | None
) -> LayoutResult:
    runner = LayoutRunner(
        scenario=scenario,
        modes=("parity",),
        attempts=attempts,
        planting=Planting(fault=fault, layout=layout),
        on_event=lambda _: None,
        second_pass=False,
    )
    return runner.run(scenario.case(layout), reference)


def _trial(layout: str, mutant: Mutant, account: LayoutResult) -> MutantTrial:
    failed = account.parity.failed_check if account.parity is not None else None
    reason = first_line(account.reason, limit=160)
    return MutantTrial(layout=layout, mutant=mutant, ended=failed or account.status, reason=reason)


def _write(directory: Path, trials: list[MutantTrial], num_planned: int, command: tuple[str, ...]) -> None:
    everything = [trial.model_dump(mode="json") for trial in trials]
    write_atomically(directory / ACCOUNT, json.dumps(everything, indent=1).encode())
    write_atomically(directory / "mutants.md", render(trials, num_planned, command).encode())


def render(trials: Sequence[MutantTrial], num_planned: int, command: Sequence[str]) -> str:
    """The account as Markdown: how many were caught, by what, and which were not."""
    survivors = survivors_of(trials)
    spared = [trial for trial in trials if trial.survived and trial not in survivors]
    num_tried, num_caught = count(trials), count(trials) - count(survivors)
    ended = Counter(trial.ended for trial in trials if not trial.survived)
    return (
        "\n\n".join(
            [
                f"# Mutants: {num_caught} of {num_tried} caught",
                f"Made by `{' '.join(command)}`; {num_tried} of {num_planned} planned mutants were run.",
                table(("caught by", "mutants"), ((name, str(number)) for name, number in ended.most_common())),
                "## Survivors",
                _rows(survivors) if survivors else "None.",
                "## Caught in another layout than these",
                _rows(spared) if spared else "None.",
                "## All",
                _rows(trials),
            ]
        )
        + "\n"
    )


def _rows(trials: Iterable[MutantTrial]) -> str:
    return table(
        ("role", "collective", "site", "mutation", "layout", "ended as"),
        (
            (
                one.mutant.call.role,
                one.mutant.call.collective,
                one.mutant.call.site,
                one.mutant.how,
                one.layout,
                one.ended,
            )
            for one in trials
        ),
    )
