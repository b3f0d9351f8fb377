"""What the terminal shows, in a terminal and in a log."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from mimo_bench.record import Comparison, HistoryComparison
from mimo_bench.report import render_junit, render_markdown, words
from mimo_bench.report.board import Board
from mimo_bench.report.console import live, watch
from mimo_bench.report.events import Event, LayoutEnded, LayoutStarted, MatrixEnded, MatrixStarted
from tests.report.test_report_as_timed import timed_alone
from tests.support import golden

FASTEST_HERE = (
    "Nothing is recommended: CPU ranks share this machine's cores: no forecast for GPUs. Fastest here: colocated-dp2 "
    "(2 ranks on 8 cores, 0.25 a core), 1,506 tokens/s per CPU rank of 2; 41.2 % above the next."
)

STARTED = MatrixStarted(
    scenario=golden.scenario(),
    names=golden.scenario().names,
    modes=("parity", "timing"),
    device_kind="cpu",
    directory=Path("runs/one"),
)


def events() -> list[Event]:
    """The golden run as it happened."""
    happened: list[Event] = [STARTED]
    for layout in golden.record().layouts:
        happened += [LayoutStarted(name=layout.name, mode=launch.mode) for launch in layout.launches]
        happened.append(LayoutEnded(layout=layout))
    return [*happened, MatrixEnded(record=golden.record())]


def log(happened: Sequence[Event]) -> list[str]:
    """The lines that a log gets."""
    stream = io.StringIO()
    with live(stream) as on_event:
        for event in happened:
            on_event(event)
    return stream.getvalue().splitlines()


def drawn(board: Board, *, width: int = 140, height: int = 40) -> str:
    """The board as it stands, as plain text."""
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as capture:
        console.print(board)
    return capture.get()


def board_after(happened: Sequence[Event], *, seconds: float = 0.0) -> Board:
    """A board that has taken some events, `seconds` of which lie between each two."""
    clock = iter(range(10_000))
    board = Board(now=lambda: next(clock) * seconds)
    for event in happened:
        board.take(event)
    return board


def row_of(name: str, picture: str) -> str:
    """The row of one layout."""
    return next(line for line in picture.splitlines() if line.strip().startswith(name))


# A log


def test_a_log_gets_a_line_for_every_event() -> None:
    lines = log(events())
    assert lines[:2] == [golden.scenario().question, "4 layouts of llava-tiny, parity and timing on cpu ranks"]
    assert lines[2] == f"[1/4] {golden.BASELINE}: parity ..."
    assert lines[-5] == "2 passed, 1 parity failed, 1 crashed"
    assert lines[-4].startswith(f"FAILED {golden.WRONG}: parity failed: ")
    assert lines[-3].startswith(f"FAILED {golden.CRASHED}: crashed: ")
    assert lines[-2:] == [FASTEST_HERE, "report: runs/one/report.html"]
    assert len(lines) == len(events()) + 5


def test_each_layout_that_ends_says_how_long_the_rest_will_take() -> None:
    console, clock = Console(file=io.StringIO(), width=200), iter(range(0, 1000, 10))
    first = golden.record().layouts[0]
    with watch(console, now=lambda: next(clock)) as on_event:
        # Begins at 0 s, is over after 10 s and looked at after 20 s: three layouts of 20 s are left.
        for event in (STARTED, LayoutStarted(name=first.name, mode="parity"), LayoutEnded(layout=first)):
            on_event(event)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    assert stream.getvalue().rstrip().endswith("(10.0 s; about 60.0 s left)")


def test_a_regression_is_named_at_the_end() -> None:
    slower = Comparison(
        layout=golden.DISJOINT,
        quantity="step_seconds",
        verdict="regressed",
        reason="22.0% slower (p = 0.001)",
        value=1.0,
    )
    expected = slower.model_copy(update={"layout": golden.BASELINE, "expected": "known"})
    record = golden.record().model_copy(
        update={"history": HistoryComparison(directory="nights", num_runs=8, held=(slower, expected))}
    )
    said = f"REGRESSED {golden.DISJOINT}: 22.0% slower (p = 0.001)"
    lines = log([*events()[:-1], MatrixEnded(record=record)])
    assert said in lines
    assert said in drawn(board_after([STARTED, MatrixEnded(record=record)]))
    assert sum("REGRESSED" in line for line in lines) == 1
    suite = ElementTree.fromstring(render_junit(record))[0]
    assert suite.get("failures") == "2"
    (failure,) = next(case for case in suite if case.get("name") == golden.DISJOINT)
    assert (failure.tag, failure.get("message")) == ("failure", "regressed: 22.0% slower (p = 0.001)")
    assert f"**Regressed: {golden.DISJOINT}**" in render_markdown(record)


def test_what_was_only_timed_is_told_by_its_numbers_and_why_nothing_is_ranked() -> None:
    ended = [LayoutEnded(layout=layout) for layout in timed_alone().layouts]
    happened: list[Event] = [STARTED, *ended, MatrixEnded(record=timed_alone())]
    lines, picture = log(happened), drawn(board_after(happened))
    assert f"{golden.DISJOINT}: as timed only, loss rel 3.0e-07, grad norm rel 5.0e-07, tokens/s 4,267" in "\n".join(
        lines
    )
    assert "as timed only" in row_of(golden.DISJOINT, picture)
    said = words.none_to_take(timed_alone())
    assert said in lines
    assert said in picture


def test_a_run_whose_numbers_are_not_to_be_compared_has_no_best_layout() -> None:
    shared = golden.record().model_copy(update={"tainted": "up to 4 ranks shared a GPU"})
    happened: list[Event] = [STARTED, *(LayoutEnded(layout=layout) for layout in shared.layouts)]
    happened.append(MatrixEnded(record=shared))
    lines, picture = log(happened), drawn(board_after(happened))
    assert words.none_to_take(shared) in lines
    assert "not to be compared" in picture
    assert "best:" not in picture + "\n".join(lines)


def test_one_layout_is_counted_as_one() -> None:
    assert (
        log([replace(STARTED, names=STARTED.names[:1])])[1] == "1 layout of llava-tiny, parity and timing on cpu ranks"
    )


def test_skipped_samples_are_told_at_the_end() -> None:
    layouts = tuple(
        layout.model_copy(update={"skipped_samples": {"train": 25, "validation": 6}})
        for layout in golden.record().layouts
    )
    ended = MatrixEnded(record=golden.record().model_copy(update={"layouts": layouts}))
    said = "Bad samples skipped: 25 of train, 6 of validation; the ranks' logs name them."
    assert said in log([STARTED, ended])
    assert said in drawn(board_after([STARTED, ended]))
    assert "skipped" not in drawn(board_after(events()))


def test_a_record_that_contradicts_itself_says_so_where_its_numbers_are_read() -> None:
    ended = MatrixEnded(record=golden.record(), contradictions=("layout 'a': 1 s is not 2 s", "layout 'b': neither"))
    said = (
        "the record contradicts itself in 2 places, so do not trust these numbers: layout 'a': 1 s is not 2 s; "
        "mimo-bench validate runs/one lists all of them"
    )
    assert log([STARTED, ended])[-2] == said
    assert "contradicts itself in 2 places" in drawn(board_after([STARTED, ended]))
    assert "contradicts" not in "".join(log(events()))


def test_a_run_that_was_stopped_says_how_to_finish_it() -> None:
    ended = MatrixEnded(record=golden.record().model_copy(update={"finished_at": None}))
    said = "stopped early; to finish it, give the same command with --resume --out runs/one"
    assert log([STARTED, ended])[-2] == said
    assert said in drawn(board_after([STARTED, ended]))
    assert "--resume" not in "".join(log(events()))


def test_a_resumed_run_says_what_it_kept_and_what_it_runs() -> None:
    layouts = golden.record().layouts
    one = replace(STARTED, is_resumed=True, kept=layouts[1:2])
    said = "going on: 1 of 4 layouts kept, 3 to run"
    assert log([one])[2] == said
    assert said in drawn(board_after([one]))
    assert log([replace(one, kept=())])[2] == "going on: 0 of 4 layouts kept, 4 to run"
    assert log([replace(one, kept=layouts)])[2] == "going on: 4 of 4 layouts kept, 0 to run"
    assert "going on" not in "".join(log([STARTED]))


def test_a_log_says_once_that_a_mode_has_started() -> None:
    again = LayoutStarted(name=golden.BASELINE, mode="timing")
    assert len(log([STARTED, again, again, again])) == 3


def test_a_log_says_what_a_passed_layout_measured() -> None:
    line = next(line for line in log(events()) if f"{golden.DISJOINT}: passed" in line)
    assert line.startswith("[2/4] vision-dp2--language-tp2: passed, loss rel 2.0e-07, grad norm rel 4.0e-07")
    assert "tokens/s 4,267" in line


def test_a_log_says_why_a_layout_did_not_pass() -> None:
    lines = log(events())
    assert any(f"{golden.CRASHED}: crashed: rank 2 ended with exit code 1" in line for line in lines)
    assert any(f"{golden.WRONG}: parity failed: vision gradient norm is 0.5 times" in line for line in lines)


def test_a_log_is_plain_and_keeps_long_lines_and_brackets() -> None:
    layout = golden.record().layouts[3].model_copy(update={"reason": "[rank2]: " + "x" * 200 + " [/bold]"})
    (line,) = log([LayoutEnded(layout=layout)])
    assert "[rank2]: " + "x" * 200 + " [/bold]" in line
    assert "\x1b" not in line


def test_a_character_that_the_stream_lacks_does_not_end_the_run() -> None:
    raw = io.BytesIO()
    layout = golden.record().layouts[3].model_copy(update={"reason": "caf\N{LATIN SMALL LETTER E WITH ACUTE}"})
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with live(stream) as on_event:
        on_event(LayoutEnded(layout=layout))
    assert b"crashed: caf?" in raw.getvalue()


# A terminal


def test_the_table_has_a_row_for_every_layout_from_the_start() -> None:
    picture = drawn(board_after([STARTED]))
    for name in STARTED.names:
        assert "waiting" in row_of(name, picture)
    assert "vision dp2 @0-1 | language tp2 @2-3" in row_of(golden.DISJOINT, picture)


def test_a_running_layout_shows_its_mode_and_how_long_it_has_run() -> None:
    board = board_after([STARTED, LayoutStarted(name=golden.BASELINE, mode="parity")], seconds=30.0)
    row = row_of(golden.BASELINE, drawn(board))
    assert "parity" in row
    assert "30 s" in row


def test_a_second_mode_does_not_restart_the_time() -> None:
    modes = [LayoutStarted(name=golden.BASELINE, mode=mode) for mode in STARTED.modes]
    row = row_of(golden.BASELINE, drawn(board_after([STARTED, *modes], seconds=30.0)))
    assert "timing" in row
    assert "30 s" in row


def test_an_ended_layout_shows_its_status_and_numbers() -> None:
    picture = drawn(board_after(events()))
    passed, failed, crashed = (row_of(name, picture) for name in (golden.DISJOINT, golden.WRONG, golden.CRASHED))
    assert passed.split()[-4:] == ["s", "2.0e-07", "4.0e-07", "4,267"]
    assert "parity failed" in failed
    assert failed.split()[-2:] == ["5.0e-01", words.DASH]
    assert "crashed" in crashed


def test_the_last_picture_has_counts_and_the_report() -> None:
    board = board_after(events())
    board.close()
    *_, counts, first, second, fastest, report = (
        line.rstrip() for line in drawn(board, width=240).splitlines() if line
    )
    assert counts == "2 passed, 1 parity failed, 1 crashed"
    assert first.startswith(f"FAILED {golden.WRONG}: ")
    assert second.startswith(f"FAILED {golden.CRASHED}: ")
    assert (fastest, report) == (FASTEST_HERE, "report: runs/one/report.html")


def test_a_narrow_terminal_keeps_one_line_a_layout() -> None:
    lines = drawn(board_after(events()), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    for name in STARTED.names:
        assert sum(line.startswith(name) for line in lines) == 1
    (heads,) = (line for line in lines if line.startswith("layout"))
    assert heads.endswith("loss rel grad rel tokens/s")
    assert "@0-1" not in "".join(lines)


def test_a_low_terminal_shows_the_layout_that_runs() -> None:
    names = tuple(golden.scenario().names)
    happened = events()[: events().index(LayoutStarted(name=names[2], mode="parity")) + 1]
    picture = drawn(board_after(happened), height=11)
    assert row_of(names[2], picture)
    assert names[0] not in picture
    assert "1 of 4 layouts are not shown" in picture


def interrupt(console: Console) -> None:
    """A run that is stopped in its first layout."""
    with watch(console) as on_event:
        on_event(STARTED)
        on_event(LayoutStarted(name=golden.BASELINE, mode="parity"))
        raise KeyboardInterrupt


def test_an_interrupted_run_leaves_what_it_knew_on_screen() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, no_color=True, width=140, height=11)
    with pytest.raises(KeyboardInterrupt):
        interrupt(console)
    last = stream.getvalue().rpartition(golden.scenario().question)[2]
    assert "interrupted" in row_of(golden.BASELINE, last)
    assert "not run" in row_of(golden.CRASHED, last)


def test_a_reason_is_told_above_the_table_as_soon_as_it_is_known() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, no_color=True, width=140)
    with watch(console) as on_event:
        on_event(STARTED)
        on_event(LayoutEnded(layout=golden.record().layouts[3]))
        assert f"{golden.CRASHED}: crashed: rank 2 ended with exit code 1: RuntimeError" in stream.getvalue()
