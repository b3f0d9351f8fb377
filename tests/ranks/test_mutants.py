"""Every collective call of a training step is seen, on real ranks, and one that is broken is caught."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from mimo_bench.bench.gate.campaign import TestBench
from mimo_bench.bench.gate.mutants import MAX_SHARED, SURVEY, may_share_launch, mutants_of, place_of
from mimo_bench.bench.layout_run import LayoutResult
from mimo_bench.cli import app as cli
from mimo_bench.launch import Launcher
from mimo_bench.record.gate import Call, Mutant
from mimo_bench.scenario.scenario import Scenario
from tests.ranks.gate import Gate

How = Literal["skip", "double", "wrong group"]
EQUAL, STAGES, EXPERTS = "dp2", "pp2", "ep2"
COMMON = {
    "question": "Is a broken call caught?",
    "global_batch_size": 4,
    "global_micro_batch_size": 4,
    "seq_length": 32,
    "baseline": "1-rank",
    "steps": {"parity": 2},
}
ONE_RANK = {"name": "1-rank", "vision": {}, "language": {}}
DENSE = Scenario.model_validate(
    COMMON
    | {
        "model": "llava-tiny",
        "layout": [
            ONE_RANK,
            {"name": EQUAL, "vision": {"dp": 2}, "language": {"dp": 2}},
            {"name": STAGES, "vision": {"pp": 2}, "language": {"pp": 2, "rank_offset": 2}},
        ],
    }
)
WITH_EXPERTS = Scenario.model_validate(
    COMMON
    | {
        "model": "llava-moe-tiny",
        "training": {"learning_rate": 2e-4},
        "layout": [ONE_RANK, {"name": EXPERTS, "vision": {"dp": 2}, "language": {"dp": 2, "ep": 2}}],
    }
)


@pytest.fixture(scope="module")
def dense(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(launcher, DENSE, tmp_path_factory.mktemp("dense"), hang_seconds=8.0)


def survey(gate: Gate, layout: str, *, fault: str = SURVEY) -> tuple[LayoutResult, set[Call]]:
    """Return how a layout ends under the survey, and the calls of its first rank."""
    place = gate.folder / "calls" / layout
    place.mkdir(parents=True, exist_ok=True)
    return gate.judge(layout, f"{fault}:{place}"), calls_of(gate, layout, rank=0)


def calls_of(gate: Gate, layout: str, *, rank: int) -> set[Call]:
    """Return the calls of a rank under the survey."""
    path = gate.folder / "calls" / layout / f"calls{rank}.json"
    return {Call.model_validate(call) for call in json.loads(path.read_text())} if path.exists() else set()


def break_call(gate: Gate, layout: str, call: Call, how: How) -> str | None:
    """The check that catches it, or how the layout ended otherwise."""
    account = gate.judge(layout, place_of(Mutant(call=call, how=how)))
    return account.parity.failed_check if account.parity is not None else account.status


def test_a_survey_changes_nothing_and_sees_who_calls_what_on_which_groups(dense: Gate) -> None:
    account, calls = survey(dense, EQUAL)
    assert account.status == "passed"
    seen = {(call.role, call.collective, call.site.rpartition(":")[0], call.is_repeatable) for call in calls}
    assert ("vision.dp-cp", "all_reduce", "distributed/param_and_grad_buffer.py:start_grad_sync", False) in seen
    assert ("world", "all_reduce", "trainer/gradients.py:reduce", False) in seen
    # A maximum.
    assert ("world", "all_reduce", "trainer/optimizer.py:_reduce_norms", True) in seen


def test_what_experts_exchange_is_seen_and_may_be_exchanged_twice(
    launcher: Launcher, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gate = Gate(launcher, WITH_EXPERTS, tmp_path_factory.mktemp("experts"))
    account, calls = survey(gate, EXPERTS)
    assert account.status == "passed"
    exchanged = [call for call in calls if call.collective == "all_to_all_single"]
    assert {(call.role, call.size, call.is_repeatable) for call in exchanged} == {("language.ep", 2, True)}


def test_a_survey_ends_where_a_step_calls_what_nobody_watches(dense: Gate) -> None:
    account, _ = survey(dense, EQUAL, fault="tests.ranks.planted:unwatched_call")
    assert account.status == "crashed"
    assert "planted.py:gather_too:" in account.reason
    assert "reaches gather of a process group by none of all_reduce, broadcast," in account.reason


@pytest.mark.parametrize(("how", "check"), [("skip", "replicas"), ("double", "gradients")])
def test_a_reduction_that_is_gathered_with_others_is_broken_all_the_same(dense: Gate, how: How, check: str) -> None:
    _, calls = survey(dense, EQUAL)
    (reduction,) = (call for call in calls if call.role == "vision.dp-cp" and call.collective == "all_reduce")
    assert break_call(dense, EQUAL, reduction, how) == check


def test_a_message_on_a_wrong_group_goes_to_another_rank(dense: Gate) -> None:
    survey(dense, STAGES)
    calls = [*calls_of(dense, STAGES, rank=0), *calls_of(dense, STAGES, rank=3)]
    sent = [call for call in calls if call.role.endswith(".pp") and call.collective == "batch_isend_irecv"]
    # Between the same two ranks it would arrive, whatever group carries it.
    assert {break_call(dense, STAGES, call, "wrong group") for call in sent} <= {"crashed", "timeout"}
    assert {call.role for call in sent} == {"vision.pp", "language.pp"}


SMALL = """
question = "Is a broken call caught?"
model = "llava-tiny"
global_batch_size = 4
global_micro_batch_size = 4
seq_length = 32
baseline = "1-rank"
steps = { parity = 2 }

[[layout]]
name = "1-rank"
vision = {}
language = {}

[[layout]]
name = "dp2"
vision = { dp = 2 }
language = { dp = 2 }
"""


@pytest.mark.usefixtures("warm_commands")
def test_an_account_out_of_time_has_what_was_run_and_can_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, account = tmp_path / "small.toml", tmp_path / "account"
    file.write_text(SMALL)
    asked = ["mutants", str(file), "--layout", EQUAL, "--device", "cpu", "--out", str(account), "--seconds", "1.5"]
    # Each reading of the clock adds a second: one at the start, one before each launch.
    monkeypatch.setattr("mimo_bench.bench.gate.mutants.time", SimpleNamespace(monotonic=count().__next__))
    assert cli.main(asked) == 0
    first = json.loads((account / "mutants.json").read_text())
    # Mutants that share a launch are begun together.
    assert 1 < len(first) <= MAX_SHARED
    assert f" of {len(first)} mutants caught" in capsys.readouterr().out
    assert cli.main([*asked, "--resume"]) == 0
    both = json.loads((account / "mutants.json").read_text())
    assert both[: len(first)] == first
    assert len(both) > len(first)
    assert re.search(rf"; {len(both)} of \d+ planned mutants were run\.", (account / "mutants.md").read_text())
    assert sorted(path.name for path in account.iterdir()) == ["mutants.json", "mutants.md"]


def test_mutants_that_share_a_launch_end_as_they_do_alone(dense: Gate) -> None:
    _, calls = survey(dense, EQUAL)
    mutants = [mutant for mutant in mutants_of(calls) if may_share_launch(mutant)][:MAX_SHARED]
    reference = dense.reference
    bench = TestBench(scenario=DENSE, directory=dense.folder, attempts=dense.attempts, reference=reference)
    clean = bench.share_launch(EQUAL, [place_of(mutant) for mutant in mutants])
    assert clean is not None
    assert clean.status == "passed"
    for mutant in mutants:
        assert bench.has_trained(EQUAL, place_of(mutant))
        shared, alone = bench.judge(EQUAL, place_of(mutant)), dense.judge(EQUAL, place_of(mutant))
        assert (shared.status, shared.reason, shared.parity) == (alone.status, alone.reason, alone.parity)
