"""The record while it grows: whatever ends the run, the file says what was known."""

from __future__ import annotations

import multiprocessing
import os
import signal
from itertools import count
from pathlib import Path
from typing import Any

from mimo_bench.bench.ledger import Ledger, entry
from mimo_bench.bench.request import RunRequest
from mimo_bench.record import RunRecord
from mimo_bench.record.files import read_run
from tests.support import golden


def open_ledger(directory: Path, *, plant: str | None = None, earlier: RunRecord | None = None) -> Ledger:
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
        ),
        earlier=earlier,
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
    written = (tmp_path / "run.json").stat().st_mtime_ns
    ledger.start(golden.scenario().case(first.name))
    ledger.enter(entry(golden.scenario().case(first.name), status="passed", reason="it agrees"))
    ledger.start(golden.scenario().case(second.name))
    # Not once a layout: all that is written would grow with the square of their number.
    assert (tmp_path / "run.json").stat().st_mtime_ns == written
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


def run_until(directory: Path, log: Path, num_moves: int) -> None:
    """Run three layouts, stop, resume and finish; be killed in front of a file's move or removal number `num_moves`."""
    moves = count()

    def or_be_killed(do: Any) -> Any:
        def wrapped(path: Path, *arguments: Any, **options: Any) -> Any:
            if path.exists() and next(moves) == num_moves:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(path, *arguments, **options)

        return wrapped

    for name in ("replace", "unlink"):
        setattr(Path, name, or_be_killed(getattr(Path, name)))
    layouts = golden.record().layouts[:3]
    ledger = open_ledger(directory)
    for layout in layouts[:2]:
        ledger.start(golden.scenario().case(layout.name))
        ledger.enter(layout)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{layout.name}\n")
    ledger.interrupt()
    resumed = open_ledger(directory, earlier=read_run(directory))
    for layout in (layouts[0], layouts[2]):
        resumed.start(golden.scenario().case(layout.name))
        resumed.enter(layout)
    resumed.finish()


def test_a_kill_at_any_move_of_a_file_leaves_every_finished_layout(tmp_path: Path) -> None:
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])
    entries = {layout.name: layout for layout in golden.record().layouts}
    for num_moves in count():
        directory, log = tmp_path / str(num_moves), tmp_path / f"{num_moves}.log"
        log.touch()
        process = forks.Process(target=run_until, args=(directory, log, num_moves))
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        if not (directory / "run.json").exists():
            assert num_moves == 0
            continue
        record = read_run(directory)
        found = {layout.name: layout for layout in record.layouts}
        finished = log.read_text(encoding="utf-8").split()
        for name in finished:
            # The baseline is trained again by the second invocation.
            is_again = name == golden.BASELINE and found[name].status == "interrupted"
            assert is_again or found[name] == entries[name]
        if process.exitcode == 0:
            break
    assert num_moves > 10
    assert record.finished_at is not None


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
