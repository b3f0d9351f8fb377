"""Mutation of the gate: every collective call of a training step is broken, and the gate must catch it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from pydantic import TypeAdapter

from mimo_bench.bench.gate.campaign import AccountFile, Campaign, TestBench
from mimo_bench.bench.layout_run import LayoutResult
from mimo_bench.record import Call, Mutant, MutantTrial
from mimo_bench.report import first_line, render_mutants
from mimo_bench.scenario import Evaluation, Scenario
from mimo_bench.util import UsageError

NUM_STEPS = 3
"""Parity steps of a mutant: enough for a wrong update to show in the losses that follow."""

MAX_SHARED = 8
"""Mutants that share a launch at most. A launch that one of them ends is lost for the others."""

SURVEY = "mimo_bench.parity.faults.collectives:survey"
MUTATE = "mimo_bench.parity.faults.collectives:mutate"

_MESSAGES = ("send", "recv", "batch_isend_irecv")

Places = tuple[tuple[str, Mutant], ...]
"""One mutant in each of the layouts that make its call, in the order in which they are tried."""


def account_file(num_planned: int, command: tuple[str, ...]) -> AccountFile[list[MutantTrial]]:
    """Return the files of the account, whose page names the plan and the command."""
    return AccountFile(
        name="mutants",
        content=TypeAdapter(list[MutantTrial]),
        pages=lambda trials: {"md": render_mutants(trials, num_planned, command)},
    )


def run_mutants(
    campaign: Campaign,
    scenario: Scenario,
    layouts: Sequence[str],
    *,
    seconds: float | None,
    on_trial: Callable[[MutantTrial], None],
    known: Sequence[MutantTrial] = (),
) -> list[MutantTrial]:
    """Plant every mutant of every collective call of `layouts`, and leave the account in the campaign's directory.

    A call that several layouts make alike is broken in the first of them, and if it survives there, in the next. After
    `seconds` no further mutant is begun. Mutants whose trial is `known` are not run again; known trials that are no
    longer planned are dropped.
    """
    short = scenario.steps.model_copy(update={"parity": NUM_STEPS, "learning": 0})
    scenario = Scenario.model_validate({**dict(scenario), "steps": short, "evaluation": Evaluation(num_batches=0)})
    until = None if seconds is None else time.monotonic() + seconds
    with campaign.launcher() as launcher, campaign.bench(launcher, scenario) as bench:
        bench.judge(scenario.baseline)
        planned = plan((layout, _calls_of(bench, layout)) for layout in layouts)
        account = account_file(len(planned), campaign.command)
        trials = still_planned(known, planned)
        account.write(campaign.directory, trials)
        while place := next(next_places(planned, trials), None):
            layout, mutant = place
            if not bench.has_trained(layout, place_of(mutant)):
                if until is not None and time.monotonic() >= until:
                    break
                if may_share_launch(mutant):
                    alike = (one for at, one in next_places(planned, trials) if at == layout and may_share_launch(one))
                    bench.share_launch(layout, [place_of(one) for one in islice(alike, MAX_SHARED)])
            trial = _trial(layout, mutant, bench.judge(layout, place_of(mutant)))
            trials.append(trial)
            account.write(campaign.directory, trials)
            on_trial(trial)
    return trials


def mutants_of(calls: Iterable[Call]) -> list[Mutant]:
    """Return every mutant of these calls that could change anything.

    Left out as equal by construction: in a group of one rank, no call and two calls; and two calls of what is
    repeatable.
    """
    found = []
    for call in sorted(calls, key=lambda call: (call.role, call.site, call.collective)):
        if call.size > 1:
            found.append(Mutant(call=call, how="skip"))
            if not call.is_repeatable:
                found.append(Mutant(call=call, how="double"))
        found.append(Mutant(call=call, how="wrong group"))
    return found


def place_of(mutant: Mutant) -> str:
    """Return the mutant as a fault, `module:function:argument`."""
    return f"{MUTATE}:{mutant.model_dump_json()}"


def may_share_launch(mutant: Mutant) -> bool:
    """Return True if a mutant leaves no call pending on a group, which later trainings of its launch would answer.

    All ranks of a group skip or repeat a collective alike. A message has one sender and one receiver, and a call on a
    wrong group has other members.
    """
    return mutant.how != "wrong group" and mutant.call.collective not in _MESSAGES


def plan(calls: Iterable[tuple[str, Iterable[Call]]]) -> list[Places]:
    """Return every mutant of the calls of each layout, with the layouts to plant it in."""
    places: dict[tuple[str, ...], list[tuple[str, Mutant]]] = {}
    for layout, made in calls:
        for mutant in mutants_of(made):
            places.setdefault(mutant.bug, []).append((layout, mutant))
    return [tuple(found) for found in places.values()]


def next_places(planned: Iterable[Places], trials: Iterable[MutantTrial]) -> Iterator[tuple[str, Mutant]]:
    """Yield the next layout for each mutant that no layout has caught and some layout has not tried."""
    survived = {(trial.layout, trial.mutant): trial.survived for trial in trials}
    for places in planned:
        if not any(survived.get(place) is False for place in places):
            yield from islice((place for place in places if place not in survived), 1)


def still_planned(known: Iterable[MutantTrial], planned: Iterable[Places]) -> list[MutantTrial]:
    """Return the known trials whose mutant is still planned in their layout, in the order of the plan."""
    by_place = {(trial.layout, trial.mutant): trial for trial in known}
    return [by_place[place] for places in planned for place in places if place in by_place]


def read_trials(directory: Path) -> list[MutantTrial]:
    """Return the trials of the account in `directory`, to resume.

    Raises:
        UsageError: there is no account, or it cannot be read.
    """
    if (trials := account_file(0, ()).read(directory)) is None:
        raise UsageError(f"--resume: {directory}: holds no mutants.json; leave --resume out for a new account")
    return trials


def _calls_of(bench: TestBench, layout: str) -> set[Call]:
    """Return every call of a training step in `layout`, which must pass under the survey."""
    place = bench.directory / "calls" / layout
    place.mkdir(parents=True, exist_ok=True)
    result = bench.judge(layout, f"{SURVEY}:{place.absolute()}")
    assert result.status == "passed", f"{layout} does not pass unbroken: {result.reason}"
    calls = [json.loads(path.read_text(encoding="utf-8")) for path in place.glob("calls*.json")]
    shutil.rmtree(place.parent)
    return {Call.model_validate(call) for some in calls for call in some}


def _trial(layout: str, mutant: Mutant, result: LayoutResult) -> MutantTrial:
    failed = result.parity.failed_check if result.parity is not None else None
    reason = first_line(result.reason, limit=160)
    return MutantTrial(layout=layout, mutant=mutant, ended=failed or result.status, reason=reason)
