"""Which mutants a collective call has, where each is planted, and what the account says of those that were run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_bench.bench.gate.mutants import (
    may_share_launch,
    mutants_of,
    next_places,
    place_of,
    plan,
    read_trials,
    still_planned,
)
from mimo_bench.record.gate import Call, Mutant, MutantTrial, num_mutants, survivors_of
from mimo_bench.report.gate import render_mutants
from mimo_bench.util.errors import UsageError

ACCOUNTS = Path(__file__).parents[2] / "reports" / "mutants"


def call(
    collective: str = "all_reduce", *, size: int = 2, role: str = "language.tp", is_repeatable: bool = False
) -> Call:
    site = "tensor_parallel/mappings.py:_reduce:34"
    return Call(collective=collective, role=role, site=site, size=size, is_repeatable=is_repeatable)


def trial(layout: str, mutant: Mutant, ended: str) -> MutantTrial:
    return MutantTrial(layout=layout, mutant=mutant, ended=ended, reason="")


def test_a_sum_is_skipped_doubled_and_misdirected_and_a_copy_is_not_doubled() -> None:
    assert [mutant.how for mutant in mutants_of([call()])] == ["skip", "double", "wrong group"]
    assert [mutant.how for mutant in mutants_of([call("broadcast", is_repeatable=True)])] == ["skip", "wrong group"]


def test_in_a_group_of_one_rank_nothing_is_broken_but_the_group() -> None:
    assert [mutant.how for mutant in mutants_of([call(size=1)])] == ["wrong group"]


def test_a_mutant_travels_as_a_fault_with_an_argument() -> None:
    (mutant, *_) = mutants_of([call()])
    module, function, argument = place_of(mutant).split(":", 2)
    assert (module, function) == ("mimo_bench.parity.faults.collectives", "mutate")
    assert Mutant.model_validate_json(argument) == mutant


def test_only_mutants_that_leave_no_call_pending_share_a_launch() -> None:
    skip, double, wrong = mutants_of([call()])
    assert [may_share_launch(mutant) for mutant in (skip, double, wrong)] == [True, True, False]
    for collective in ("send", "recv", "batch_isend_irecv"):
        assert not any(may_share_launch(mutant) for mutant in mutants_of([call(collective)]))


def test_a_mutant_that_survives_in_one_layout_is_planted_in_the_next_that_makes_its_call() -> None:
    planned = plan([("a", [call(size=2)]), ("b", [call(size=4)]), ("c", [call(role="world")])])
    skip, double, *_ = mutants_of([call(size=2)])
    elsewhere, *_ = mutants_of([call(size=4)])
    assert len(planned) == 6
    assert next(next_places(planned, [])) == ("a", skip)
    assert next(next_places(planned, [trial("a", skip, "passed")])) == ("b", elsewhere)
    assert next(next_places(planned, [trial("a", skip, "replicas")])) == ("a", double)
    assert next(next_places(planned, [trial("a", skip, "passed"), trial("b", elsewhere, "passed")])) == ("a", double)


def test_nothing_is_left_to_plant_once_each_mutant_was_caught_or_survived_everywhere() -> None:
    planned = plan([("a", [call("broadcast", is_repeatable=True)])])
    (_, skip), (_, wrong) = (places[0] for places in planned)
    assert list(next_places(planned, [trial("a", skip, "timeout"), trial("a", wrong, "passed")])) == []


def test_survivors_are_counted_and_listed() -> None:
    skip, double, _ = mutants_of([call()])
    text = render_mutants([trial("a", skip, "gradients"), trial("a", double, "passed")], 3, ("mimo-bench", "mutants"))
    assert text.startswith("# Mutants: 1 of 2 caught")
    assert "2 of 3 planned mutants were run" in text
    survivors = text.partition("## Survivors")[2].partition("## Caught")[0]
    assert "double" in survivors
    assert "skip" not in survivors


def test_a_mutant_that_one_layout_catches_counts_once_and_as_caught_whatever_other_layouts_say() -> None:
    skip, *_ = mutants_of([call(size=2)])
    elsewhere, *_ = mutants_of([call(size=4)])
    text = render_mutants(
        [trial("a", skip, "passed"), trial("b", elsewhere, "gradients")], 1, ("mimo-bench", "mutants")
    )
    assert text.startswith("# Mutants: 1 of 1 caught")
    assert "## Survivors\n\nNone." in text
    spared = text.partition("## Caught in another layout than these")[2].partition("## All")[0]
    assert "| a | passed |" in spared
    assert "| b |" not in spared


def test_an_account_goes_on_with_what_was_not_run_and_drops_what_is_no_longer_there() -> None:
    planned = plan([("a", [call()])])
    (_, skip), (_, double), _ = (places[0] for places in planned)
    moved = Mutant(call=call(role="world"), how="skip")
    known = [trial("a", moved, "gradients"), trial("a", double, "passed"), trial("b", skip, "gradients")]
    assert still_planned(known, planned) == [known[1]]


@pytest.mark.parametrize("account", sorted(ACCOUNTS.iterdir()), ids=lambda path: path.name)
def test_a_committed_account_can_be_gone_on_with_and_has_no_survivor(account: Path) -> None:
    trials = read_trials(account)
    assert still_planned(trials, [((trial.layout, trial.mutant),) for trial in trials]) == trials
    assert survivors_of(trials) == []
    assert (
        f"; {num_mutants(trials)} of {num_mutants(trials)} planned mutants were run."
        in (account / "mutants.md").read_text()
    )


@pytest.mark.parametrize("content", [None, "{", '[{"layout": "a"}]'])
def test_what_is_no_account_is_not_gone_on_with(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "mutants.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"--resume: .*mutants\.json"):
        read_trials(tmp_path)
