"""Which mutants a collective call has, and what the account says of those that were run."""

from __future__ import annotations

from mimo_bench.mutation import Trial, render
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
