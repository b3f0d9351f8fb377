"""The record while it grows: whatever ends the run, the file says what was known."""

from __future__ import annotations

from pathlib import Path

from mimo_bench.bench.ledger import Ledger, entry
from mimo_bench.bench.request import RunRequest
from mimo_bench.record.files import read_run
from mimo_bench.record.schema import RunRecord
from tests.support import golden


def open_ledger(directory: Path, *, plant: str | None = None) -> Ledger:
    scenario = golden.scenario()
    return Ledger(
        RunRequest(
            scenario=scenario,
            scenario_file=Path("three.toml"),
            layouts=scenario.names[:3],
            device_kind="cpu",
            modes=("parity",),
            directory=directory,
            plant=plant,
            command=("mimo-bench", "run", "three.toml"),
        )
    )


def ends(record: RunRecord) -> list[str]:
    return [f"{layout.status}: {layout.reason}" for layout in record.layouts]


def test_a_run_that_just_began_has_every_layout_to_come(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    record = read_run(tmp_path)
    assert ends(record) == ["not_run: the run has not come to it"] * 3
    assert (record.finished_at, record.tainted, record.ranking) == (None, None, ())


def test_a_run_that_dies_without_a_word_leaves_what_was_under_way(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    first, second, _ = ledger.record.layouts
    ledger.start(golden.scenario().case(first.name))
    ledger.enter(entry(golden.scenario().case(first.name), status="passed", reason="it agrees"))
    ledger.start(golden.scenario().case(second.name))
    assert ends(read_run(tmp_path)) == [
        "passed: it agrees",
        "interrupted: it was under way when this record was last written",
        "not_run: the run has not come to it",
    ]


def test_a_run_that_is_stopped_tells_before_from_during(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.start(golden.scenario().case(ledger.record.layouts[0].name))
    ledger.interrupt()
    assert ends(read_run(tmp_path)) == [
        "interrupted: the run was stopped during it",
        "not_run: the run was stopped before it",
        "not_run: the run was stopped before it",
    ]


def test_a_planted_run_is_marked_as_one_that_should_not_be_compared(tmp_path: Path) -> None:
    open_ledger(tmp_path, plant="kill-rank")
    assert read_run(tmp_path).tainted == "kill-rank was planted on purpose"


def test_a_finished_run_ranks_those_that_passed_by_tokens_for_each_allocated_rank(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for layout in golden.record().layouts[:3]:
        ledger.enter(layout)
    ledger.finish()
    record = read_run(tmp_path)
    assert record.finished_at is not None
    paces = {
        layout.name: layout.timing.tokens_per_second_per_gpu
        for layout in record.layouts
        if layout.status == "passed" and layout.timing is not None
    }
    assert [place.name for place in record.ranking] == sorted(paces, key=lambda name: paces[name], reverse=True)
    assert len(record.ranking) == 2
