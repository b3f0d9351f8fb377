"""Which mutants a collective call has, and what the account says of those that were run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_bench.errors import UsageError
from mimo_bench.mutation import Trial, read_trials, render, still_planned
from mimo_bench.parity.mutants import Call, Mutant, mutants_of


def call(collective: str, *, size: int = 2, role: str = "language.tp") -> Call:
    return Call(collective=collective, role=role, site="tensor_parallel/mappings.py:_reduce:34", size=size)


def test_a_sum_is_skipped_doubled_and_misdirected_and_a_copy_is_not_doubled() -> None:
    assert [mutant.how for mutant in mutants_of([call("all_reduce")])] == ["skip", "double", "wrong group"]
    assert [mutant.how for mutant in mutants_of([call("broadcast")])] == ["skip", "wrong group"]


def test_a_group_of_one_rank_has_nothing_to_break() -> None:
    assert mutants_of([call("all_reduce", size=1)]) == []


def test_a_mutant_travels_as_a_fault_with_an_argument() -> None:
    (mutant, *_) = mutants_of([call("all_reduce")])
    module, function, argument = mutant.place.split(":", 2)
    assert (module, function) == ("mimo_bench.parity.collectives", "mutate")
    assert Mutant.model_validate_json(argument) == mutant


def test_survivors_are_counted_and_listed() -> None:
    skip, double, _ = mutants_of([call("all_reduce")])
    trials = [
        Trial(layout="a", mutant=skip, ended="gradients", reason="off"),
        Trial(layout="a", mutant=double, ended="passed", reason="3 steps agree"),
    ]
    text = render(trials, 3, ("mimo-bench", "mutants"))
    assert text.startswith("# Mutants: 1 of 2 caught")
    assert "2 of 3 planned mutants were run" in text
    survivors = text.partition("## Survivors")[2].partition("## All")[0]
    assert "double" in survivors
    assert "skip" not in survivors


def test_an_account_goes_on_with_what_was_not_run_and_drops_what_is_no_longer_there() -> None:
    planned = [("a", mutant) for mutant in mutants_of([call("all_reduce")])]
    moved = Mutant(call=call("all_reduce", role="world"), how="skip")
    known = [
        Trial(layout="a", mutant=moved, ended="gradients", reason="off"),
        Trial(layout="a", mutant=planned[1][1], ended="passed", reason="3 steps agree"),
        Trial(layout="b", mutant=planned[0][1], ended="gradients", reason="off"),
    ]
    assert still_planned(known, planned) == [known[1]]


def test_the_committed_account_can_be_gone_on_with() -> None:
    trials = read_trials(Path(__file__).parents[1] / "reports" / "mutants")
    assert len(trials) >= 52
    assert still_planned(trials, [(trial.layout, trial.mutant) for trial in trials]) == trials


@pytest.mark.parametrize("content", [None, "{", '[{"layout": "a"}]'])
def test_what_is_no_account_is_not_gone_on_with(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "mutants.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"--resume: .*mutants\.json: is no account to go on from"):
        read_trials(tmp_path)
