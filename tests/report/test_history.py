"""Runs kept over time: what the store survives, and what is said of tonight."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.cli import app as cli
from mimo_bench.cli.exits import BAD_INPUT, exit_status
from mimo_bench.record import Comparison, RunRecord
from mimo_bench.record.files import write_run
from mimo_bench.record.provenance import machine
from mimo_bench.record.schema.run import HASH_OF_MEASURING_VERSION_1
from mimo_bench.report import changes_of, render_html, render_markdown
from mimo_bench.report.charts.nights import LEFT, RIGHT
from mimo_bench.report.history.expectations import Accepted, Expectations, ExpectedFailure, Reference, read_expectations
from mimo_bench.report.history.judgement import compare_with_history, judge_nights, regressions, unexpected
from mimo_bench.report.history.nights import Night, nights_of
from mimo_bench.report.history.pair import compare_runs
from mimo_bench.report.history.store import LEFTOVER_SECONDS, NIGHTS_FILE, History
from mimo_bench.report.history.trend import render_trend
from mimo_bench.util.errors import HistoryError, UsageError
from tests.support import golden

FIRST_NIGHT = datetime(2025, 11, 3, 2, tzinfo=UTC)


def night(number: int, *, step_seconds: float, launches: Sequence[float] = (), **other: Any) -> Night:
    """The golden run's baseline on that night."""
    (first, *_) = nights_of(golden.record(), run=f"run{number}")
    fields = {name: getattr(first, name) for name in Night.__slots__}
    fields |= {
        "started_at": FIRST_NIGHT + timedelta(days=number),
        "step_seconds": step_seconds,
        "launch_medians": tuple(launches or (step_seconds,)),
        "run": f"run{number}",
    }
    return Night(**fields | other)


def nights(*values: float, **other: Any) -> list[Night]:
    return [night(number, step_seconds=value, **other) for number, value in enumerate(values)]


def noisy(num: int, *, level: float = 1.0, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [level * draw.gauss(1.0, 0.01) for _ in range(num)]


def of_steps(tonight: Night, before: Sequence[Night], expectations: Expectations = Expectations()) -> Comparison:  # noqa: B008
    (found,) = judge_nights([tonight], before, expectations)
    return found


def record_of(number: int, *, ratio: float = 1.0, num_launches: int = 1) -> RunRecord:
    """The golden run on that night, its step times times `ratio`, each launch a little off the others."""
    layouts = []
    for layout in golden.record().layouts:
        timing = layout.timing
        if timing is not None:
            seconds = tuple(second * ratio for second in timing.step_seconds)
            timing = golden.timing(seconds, world_size=layout.world_size)
            medians = [timing.step_seconds_median * (1.0 + 0.001 * launch) for launch in range(num_launches)]
            timing = timing.model_copy(update={"launch_medians": tuple(medians)})
        layouts.append(layout.model_copy(update={"timing": timing}))
    moment = FIRST_NIGHT + timedelta(days=number)
    changes = {"layouts": tuple(layouts), "started_at": moment, "finished_at": moment + timedelta(minutes=1)}
    return golden.record().model_copy(update=changes)


def put(folder: Path, record: RunRecord) -> Path:
    write_run(folder, record)
    return folder


# The store.


def test_a_run_is_kept_once_however_often_it_is_added(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    run = put(tmp_path / "run", record_of(0))
    assert history.add(run) == history.add(run)
    assert [each.layout for each in history.nights()] == [layout.name for layout in golden.record().layouts]
    assert history.nights()[0].step_seconds == pytest.approx(0.205)


@pytest.fixture(scope="module")
def forks() -> ForkServerContext:
    """Starts processes off one that has no threads: forked from a busy one, they may wait for a thread's lock."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def add_one(history: Path, folder: Path, number: int) -> None:
    History(history).add(put(folder / f"run{number}", record_of(number)))


def test_a_kept_run_without_its_record_is_kept_anew_by_the_next_add(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    name = history.add(put(tmp_path / "run", record_of(0)))
    kept = history.run_directory(name)
    (kept / "run.json").unlink()
    (kept / "nights.json").unlink()
    assert history.damaged() == [kept]
    assert history.add(tmp_path / "run") == name
    assert (history.damaged(), len({night.run for night in history.nights()})) == ([], 1)


def test_parallel_writers_lose_nothing(forks: ForkServerContext, tmp_path: Path) -> None:
    writers = [forks.Process(target=add_one, args=(tmp_path / "history", tmp_path, k)) for k in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    kept = History(tmp_path / "history")
    assert len({each.run for each in kept.nights()}) == 8
    assert kept.damaged() == []
    assert not [path for path in (tmp_path / "history" / "runs").iterdir() if path.name.startswith(".")]


def die_before_renaming(history: Path, folder: Path) -> None:
    Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, method-assign]
    add_one(history, folder, 1)


def test_a_writer_that_is_killed_leaves_no_half_run(forks: ForkServerContext, tmp_path: Path) -> None:
    add_one(tmp_path / "history", tmp_path, 0)
    writer = forks.Process(target=die_before_renaming, args=(tmp_path / "history", tmp_path))
    writer.start()
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL
    history = History(tmp_path / "history")
    assert len({each.run for each in history.nights()}) == 1
    add_one(tmp_path / "history", tmp_path, 1)
    assert len({each.run for each in history.nights()}) == 2
    (left,) = (path for path in (tmp_path / "history" / "runs").iterdir() if path.name.startswith("."))
    for path in (left, *left.rglob("*")):
        os.utime(path, (time.time() - LEFTOVER_SECONDS - 1.0,) * 2)
    add_one(tmp_path / "history", tmp_path, 1)
    assert not left.exists()
    assert len({each.run for each in history.nights()}) == 2


@pytest.mark.parametrize("num_written", [1, 2, 3])
def test_a_writer_whose_copy_was_swept_keeps_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_written: int
) -> None:
    written: list[Path] = []

    def sync_and_be_swept(descriptor: int) -> None:
        fsync(descriptor)
        written.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        if len(written) == num_written:
            written[0].parent.rename(tmp_path / "swept")

    run = put(tmp_path / "run", record_of(0))
    (run / "report.md").write_text("# Report", encoding="utf-8")
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", sync_and_be_swept)
    with pytest.raises(HistoryError, match=r"could not be kept.*`mimo-bench history add .*` keeps it"):
        History(tmp_path / "history").add(run)
    assert [path.name for path in written] == ["run.json", "report.md", "nights.json"][:num_written]
    assert list((tmp_path / "history" / "runs").iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b'{"version": 1, "nights": [', b'{"version": 0, "nights": []}'])
def test_nights_that_are_missing_broken_or_of_another_version_are_made_again_from_the_run(
    tmp_path: Path, content: bytes | None
) -> None:
    add_one(tmp_path / "history", tmp_path, 0)
    before = History(tmp_path / "history").nights()
    (path,) = tmp_path.glob(f"history/runs/*/{NIGHTS_FILE}")
    written = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    assert History(tmp_path / "history").nights() == before
    assert path.read_bytes() == written


def test_a_run_that_cannot_be_read_is_named_and_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_one(tmp_path / "history", tmp_path, 0)
    broken = tmp_path / "history" / "runs" / "20251104T020000Z-00000000"
    broken.mkdir()
    (broken / "run.json").write_text("{", encoding="utf-8")
    assert cli.main(["history", "list", str(tmp_path / "history")]) == 0
    out, err = capsys.readouterr()
    assert golden.DISJOINT in out
    assert f"{broken}: its record cannot be read" in err


@pytest.mark.parametrize(
    "command", [["list"], ["trend"], ["accept", "--scenario", "cpu-smoke", "--reason", "torch 3"]], ids=" ".join
)
def test_a_name_under_which_nothing_was_kept_is_bad_input_and_nothing_is_made_there(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nonight"
    assert cli.main(["history", command[0], str(nowhere), *command[1:]]) == BAD_INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{nowhere}: no history there; `run --history {nowhere}`" in err
    assert not nowhere.exists()


def test_a_run_that_did_not_finish_is_not_kept(tmp_path: Path) -> None:
    run = put(tmp_path / "run", record_of(0).model_copy(update={"finished_at": None}))
    with pytest.raises(HistoryError, match="the run did not finish; resume it with run --resume"):
        History(tmp_path / "history").add(run)


@pytest.mark.parametrize("year", [2000, 2099])
def test_a_run_of_a_wrong_clock_is_neither_the_first_nor_the_last_for_ever(tmp_path: Path, year: int) -> None:
    history = History(tmp_path / "history")
    moment = datetime(year, 1, 1, tzinfo=UTC)
    changes = {"started_at": moment, "finished_at": moment}
    history.add(put(tmp_path / "wrong", record_of(0).model_copy(update=changes)))
    add_one(tmp_path / "history", tmp_path, 1)
    kept = datetime.now(UTC)
    assert all(
        abs(each.started_at - kept) < timedelta(hours=1) for each in history.nights()[-len(record_of(0).layouts) :]
    )
    assert history.nights()[0].started_at == FIRST_NIGHT + timedelta(days=1)


def test_a_run_whose_date_has_no_zone_is_in_utc(tmp_path: Path) -> None:
    add_one(tmp_path / "history", tmp_path, 0)
    run = put(tmp_path / "naive", record_of(1))
    text = (run / "run.json").read_text(encoding="utf-8")
    (run / "run.json").write_text(re.sub(r'("(?:started|finished)_at": *"[^"]*)Z"', r'\1"', text), encoding="utf-8")
    assert (run / "run.json").read_text(encoding="utf-8") != text
    assert cli.main(["history", "add", str(tmp_path / "history"), str(run)]) == 0
    assert History(tmp_path / "history").nights()[-1].started_at == FIRST_NIGHT + timedelta(days=1)


# Tonight against the nights before.


def test_too_few_nights_say_so_and_decide_nothing() -> None:
    held = of_steps(night(9, step_seconds=5.0), nights(1.0, 1.0))
    assert (held.verdict, held.reference) == ("unknown", None)
    assert held.reason.startswith("2 comparable runs and 8 are needed; or 4 launches on either side")
    alone = of_steps(night(9, step_seconds=5.0), nights(1.0))
    assert alone.reason.startswith("1 comparable run and 8 are needed")


def test_five_launches_on_two_nights_are_enough() -> None:
    before = [night(0, step_seconds=1.0, launches=[0.99, 1.0, 1.01, 1.02, 0.98])]
    held = of_steps(night(1, step_seconds=1.3, launches=[1.29, 1.3, 1.31, 1.32, 1.28]), before)
    assert held.verdict == "regressed"
    assert held.reason.startswith("30.0% slower (Mann-Whitney, 5 launches against 5, p = 0.0079)")


def test_with_one_launch_a_night_the_second_night_confirms_the_first() -> None:
    before = nights(*noisy(12))
    first, second = night(20, step_seconds=1.2), night(21, step_seconds=1.19)
    assert of_steps(first, before).verdict == "suspect"
    assert of_steps(second, [*before, first]).verdict == "regressed"
    back = night(22, step_seconds=1.0)
    assert of_steps(back, [*before, first, second]).verdict == "steady"


def test_a_regression_that_is_left_alone_stays_one_until_it_is_accepted() -> None:
    before = [*nights(*noisy(12)), *(night(20 + k, step_seconds=1.2 + 0.001 * k) for k in range(15))]
    tonight = night(40, step_seconds=1.2)
    assert of_steps(tonight, before).verdict == "regressed"
    accepted = Accepted(since=FIRST_NIGHT + timedelta(days=20), scenario="cpu-smoke", reason="torch 3")
    assert of_steps(tonight, before, Expectations(accepted=(accepted,))).verdict == "steady"


def test_an_improvement_asks_to_renew_the_reference() -> None:
    before = [*nights(*noisy(12)), night(20, step_seconds=0.8)]
    held = of_steps(night(21, step_seconds=0.8), before)
    assert held.verdict == "improved"
    assert "renew the reference: mimo-bench history accept" in held.reason


def five(level: float, seed: int) -> list[float]:
    return noisy(5, level=level, seed=seed)


@pytest.mark.parametrize("num_lucky", [1, 3])
def test_a_lucky_first_night_does_not_alarm_for_ever(num_lucky: int) -> None:
    levels = [0.7] * num_lucky + [1.0] * 20
    series = [night(k, step_seconds=level, launches=five(level, k)) for k, level in enumerate(levels)]
    verdicts = [of_steps(each, series[:number]).verdict for number, each in enumerate(series)]
    assert verdicts[num_lucky] == "regressed"
    assert set(verdicts[num_lucky + 8 :]) == {"steady"}


def test_layouts_that_all_move_alike_are_said_to_be_the_machine() -> None:
    def of_night(number: int, **levels: float) -> list[Night]:
        return [
            night(number, step_seconds=level, launches=five(level, number), layout=name)
            for name, level in levels.items()
        ]

    before = [each for number in range(10) for each in of_night(number, a=1.0, b=2.0)]
    for levels, is_said in (({"a": 1.3, "b": 2.6}, True), ({"a": 1.3, "b": 2.0}, False), ({"a": 1.3, "b": 4.0}, False)):
        (first, _) = judge_nights(of_night(20, **levels), before, Expectations())
        assert first.verdict == "regressed"
        assert ("all 2 layouts, the baseline too, moved alike: look at the machine" in first.reason) is is_said


def test_a_slow_drift_ends_up_outside() -> None:
    drifting = nights(*(value * 1.003**number for number, value in enumerate(noisy(60))))
    assert of_steps(drifting[-1], drifting[:-1]).verdict == "regressed"


def test_other_machines_scenarios_and_measuring_code_are_not_held_against() -> None:
    for different in ({"machine": "another"}, {"scenario_hash": "0"}, {"measured_by": "0"}, {"tainted": "planted"}):
        assert of_steps(night(30, step_seconds=1.0), nights(*noisy(12), **different)).verdict == "unknown"


def test_a_cpu_quota_is_part_of_the_machine() -> None:
    environment = golden.environment()
    limited = environment.model_copy(update={"cpu_quota": 1.5})
    assert machine(limited) == f"{machine(environment)}, quota of 1.5 CPUs"


def test_a_written_reference_decides_by_its_own_bounds() -> None:
    written = Reference(
        machine=machine(golden.environment()),
        scenario="cpu-smoke",
        layout=golden.BASELINE,
        value=1.0,
        slower=0.05,
        faster=0.2,
    )
    expectations = Expectations(reference=(written,))
    verdicts = [of_steps(night(1, step_seconds=value), [], expectations).verdict for value in (0.79, 0.81, 1.04, 1.06)]
    assert verdicts == ["improved", "steady", "steady", "regressed"]


def test_an_expected_regression_is_told_with_its_link_and_does_not_count() -> None:
    known = ExpectedFailure(
        scenario="cpu-smoke", layout=golden.BASELINE, status="regressed", reason="driver 590", link="https://x/1"
    )
    launches = [1.0, 1.01, 1.02, 0.99, 0.98]
    before = [night(0, step_seconds=1.0, launches=launches)]
    tonight = night(1, step_seconds=1.5, launches=[1.5 * each for each in launches])
    held = of_steps(tonight, before, Expectations(expected_failure=(known,)))
    assert (held.verdict, held.expected) == ("regressed", "driver 590 (https://x/1)")


# A whole run against a history.


def test_a_run_is_held_against_its_history_and_page_summary_and_status_say_so(tmp_path: Path) -> None:
    history = tmp_path / "history"
    History(history).add(put(tmp_path / "run", record_of(0, num_launches=5)))
    tonight = record_of(1, ratio=1.5, num_launches=5)
    held = compare_with_history(tonight, history)
    assert [each.layout for each in regressions(held)] == [golden.BASELINE, golden.DISJOINT]
    assert held.since == "2025-11-03 02:00 UTC, commit 0123456"
    tonight = tonight.model_copy(
        update={"history": held, "layouts": tuple(each for each in tonight.layouts if each.status == "passed")}
    )
    assert exit_status([tonight]) == 0
    assert exit_status([tonight], gate_performance=True) == 4
    assert "regressed: step time 50.0% slower" in render_html(tonight, changes=changes_of(tonight))
    assert "regressed: step time 50.0% slower" in render_markdown(tonight, changes=changes_of(tonight))


def test_an_expected_failure_does_not_count_and_one_that_passes_asks_to_be_taken_out(tmp_path: Path) -> None:
    (tmp_path / "expectations.toml").write_text(
        "\n".join(
            f'[[expected_failure]]\nscenario = "cpu-smoke"\nlayout = "{name}"\nstatus = "{status}"\n'
            f'reason = "upstream"\nlink = "https://x/2"\n'
            for name, status in ((golden.WRONG, "parity_failed"), (golden.CRASHED, "crashed"), (golden.DISJOINT, "oom"))
        ),
        encoding="utf-8",
    )
    record = record_of(0)
    assert exit_status([record]) == 3
    record = record.model_copy(update={"history": compare_with_history(record, tmp_path)})
    assert [layout.name for layout in unexpected(record.layouts, record.history)] == [golden.BASELINE, golden.DISJOINT]
    assert exit_status([record]) == 0
    changes = changes_of(record)
    assert changes is not None
    said = {change.layout: change.said for change in changes.changes}
    assert said[golden.WRONG] == "parity_failed as expected: upstream (https://x/2)"
    assert said[golden.DISJOINT].startswith("no longer oom: take it out of expectations.toml")


def test_why_there_is_nothing_to_hold_against_is_said(tmp_path: Path) -> None:
    empty = compare_with_history(record_of(0), tmp_path / "history")
    assert empty.not_compared == "the history holds no earlier run of this scenario"
    other = record_of(0).model_copy(update={"code_hash": "f" * 64})
    History(tmp_path / "history").add(put(tmp_path / "run", other))
    found = compare_with_history(record_of(1), tmp_path / "history")
    assert found.not_compared is not None
    assert "the measuring code differs: measured_by was ffffffffffff and is c0dec0dec0de" in found.not_compared


def test_records_older_than_measuring_versions_stay_in_the_series_of_version_1() -> None:
    legacy = record_of(0).model_copy(update={"measuring_version": None, "measuring_hash": HASH_OF_MEASURING_VERSION_1})
    versioned = record_of(1).model_copy(update={"measuring_version": 1, "measuring_hash": "f" * 64})
    assert legacy.measured_by == versioned.measured_by
    older = legacy.model_copy(update={"measuring_hash": "e" * 64})
    assert older.measured_by == "e" * 64
    assert versioned.model_copy(update={"measuring_version": 2}).measured_by != versioned.measured_by


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[[reference]]\nlayout = 1\n", "reference.0.layout: 1"),
        ("[[expected_failure]]\nlinks = 'x'\n", "unknown key; remove it"),
        ("no toml", "(at line 1, column 4); correct it there, or restore the file"),
    ],
)
def test_expectations_that_cannot_be_read_are_bad_input(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "expectations.toml").write_text(content, encoding="utf-8")
    with pytest.raises(HistoryError, match=r"expectations\.toml") as refused:
        read_expectations(tmp_path / "expectations.toml")
    assert complaint in str(refused.value)


def test_a_gate_without_a_history_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    scenario = Path(__file__).parents[2] / "scenarios" / "cpu_smoke.toml"
    assert cli.main(["run", str(scenario), "--device", "cpu", "--gate-performance"]) == 2
    assert "--gate-performance needs a history to compare with; add --history HISTORY" in capsys.readouterr().err


# Two runs side by side, the commands and the page.


def test_one_launch_each_tells_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = put(tmp_path / "old", record_of(0)), put(tmp_path / "new", record_of(1, ratio=2.0))
    assert cli.main(["compare", str(old), str(new)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if golden.DISJOINT in line)
    assert line.startswith(f"| {golden.DISJOINT} | passed | passed | 145 ms | 290 ms | +100.0 % |")
    assert line.endswith("| 1 and 1 | unknown: 4 launches of each are needed (--launches 4) |")


def test_launches_decide_where_there_are_enough() -> None:
    sides = compare_runs(record_of(0, num_launches=5), record_of(1, ratio=1.1, num_launches=5))
    by_layout = {side.layout: side for side in sides}
    assert by_layout[golden.DISJOINT].verdict == "slower"
    assert by_layout[golden.DISJOINT].launches == (5, 5)


def test_page_comparison_and_history_state_one_step_time() -> None:
    record = record_of(0)
    layouts = tuple(
        layout.model_copy(
            update={"timing": layout.timing.model_copy(update={"launch_medians": (0.0538, 0.068, 0.0821)})}
        )
        for layout in record.layouts
        if layout.timing is not None
    )
    record = record.model_copy(update={"layouts": layouts})
    (side, *_), (night, *_) = compare_runs(record, record), nights_of(record, run="tonight")
    assert side.new_seconds == night.step_seconds == 0.068
    assert "| 68.0 ms |" in render_markdown(record)
    assert "launch 2: 0.0821 s</title>" in render_html(record)


def asking_otherwise(record: RunRecord, **table: Any) -> RunRecord:
    """The run of a scenario with another question and one more layout; `table` changes the disjoint layout."""
    tables = [{**each, **(table if each["name"] == golden.DISJOINT else {})} for each in record.scenario["layout"]]
    scenario = {
        **record.scenario,
        "question": "In other words?",
        "layout": [*tables, {**tables[0], "name": "one-more"}],
    }
    return record.model_copy(update={"scenario": scenario, "scenario_hash": "a" * 64, "question": "In other words?"})


def test_a_new_question_or_one_more_layout_ends_no_series(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for number in range(2):
        history.add(put(tmp_path / str(number), record_of(number, num_launches=5)))
    tonight = asking_otherwise(record_of(2, ratio=1.5, num_launches=5))
    held = compare_with_history(tonight, history.directory)
    assert (held.not_compared, held.num_runs) == (None, 2)
    assert [each.layout for each in regressions(held)] == [golden.BASELINE, golden.DISJOINT]
    sides = compare_runs(record_of(0, num_launches=5), tonight)
    assert {side.layout: side.verdict for side in sides}[golden.DISJOINT] == "slower"


def test_a_layout_that_was_edited_is_another_layout(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.add(put(tmp_path / "old", record_of(0, num_launches=5)))
    edited = asking_otherwise(record_of(1, ratio=1.5, num_launches=5), global_micro_batch_size=8)
    assert [each.layout for each in regressions(compare_with_history(edited, history.directory))] == [golden.BASELINE]
    sides = {side.layout: side for side in compare_runs(record_of(0, num_launches=5), edited)}
    assert (sides[golden.DISJOINT].ratio, sides[golden.DISJOINT].verdict) == (None, "not compared: the layout differs")


def test_runs_of_other_scenarios_are_not_compared_and_every_reason_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = golden.environment().model_copy(update={"cpu": "an abacus"})
    scenario = {**golden.record().scenario, "seed": 7}
    other = record_of(1).model_copy(update={"scenario": scenario, "environment": environment, "tainted": "x"})
    with pytest.raises(UsageError, match=r"the scenario differs: seed was 0 and is 7; the machine differs"):
        compare_runs(record_of(0), other)
    old, new = put(tmp_path / "old", record_of(0)), put(tmp_path / "new", other)
    assert cli.main(["compare", str(old), str(new)]) == 2
    assert "the new run is tainted: x" in capsys.readouterr().err


def test_history_is_added_listed_accepted_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = tmp_path / "history"
    runs = [str(put(tmp_path / f"run{k}", record_of(k, num_launches=5))) for k in range(3)]
    assert cli.main(["history", "add", str(history), *runs]) == 0
    assert cli.main(["history", "list", str(history)]) == 0
    assert f"| cpu-smoke | {golden.BASELINE} | 8 x Example CPU @ 2.00GHz | 3 |" in capsys.readouterr().out
    accept = ["history", "accept", str(history), "--scenario", "cpu-smoke", "--reason", 'a "new" torch']
    assert cli.main([*accept, "--layout", golden.DISJOINT]) == 0
    (entry,) = read_expectations(history / "expectations.toml").accepted
    assert (entry.since, entry.layout) == (FIRST_NIGHT + timedelta(days=2), golden.DISJOINT)
    assert cli.main([*accept, "--layout", "nobody"]) == 2
    assert "has no layout 'nobody'" in capsys.readouterr().err
    assert cli.main(["history", "trend", str(history)]) == 0
    page = (history / "trend.html").read_text(encoding="ascii")
    assert page.count("<svg") == 2
    assert "http" not in page


def test_a_planted_night_is_listed_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted = record_of(0).model_copy(update={"tainted": "slow-rank@dp2 was planted on purpose"})
    assert cli.main(["history", "add", str(tmp_path / "history"), str(put(tmp_path / "run", planted))]) == 0
    assert cli.main(["history", "list", str(tmp_path / "history")]) == 0
    assert "| passed; slow-rank@dp2 was planted on purpose |" in capsys.readouterr().out


def test_two_runs_side_by_side_say_how_layouts_ended_as_every_page_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of(0)
    open_ = tuple(layout.model_copy(update={"status": "unjudged"}) for layout in record.layouts)
    directory = str(put(tmp_path / "run", record.model_copy(update={"layouts": open_})))
    assert cli.main(["compare", directory, directory]) == 0
    assert f"| {golden.BASELINE} | not judged | not judged |" in capsys.readouterr().out


def test_what_a_history_says_cannot_become_markup() -> None:
    hostile = "<script>alert(1)</script>"
    page = render_trend(nights(*noisy(12), layout=hostile, scenario=hostile, machine=hostile), Expectations())
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_trend_page_says_what_stood_out_and_where_the_level_changed() -> None:
    values = [*noisy(20), *noisy(12, level=1.2, seed=1)]
    page = render_trend(nights(*values), Expectations())
    assert '<span class="verdict regressed">regressed</span>' in page
    assert page.count('class="outside"') == 12
    assert page.count('class="level"') == 2
    assert '<span class="nowrap">2025-11-23 +' in page


@pytest.mark.parametrize("num_nights", [1, 2, 40])
def test_levels_of_however_many_nights_stay_inside_of_their_chart(num_nights: int) -> None:
    page = render_trend(nights(*noisy(num_nights)), Expectations())
    ends = re.findall(r'class="level" d="M([-\d.]+) [\d.]+H([-\d.]+)"', page)
    assert ends
    assert all(LEFT <= float(start) < float(stop) <= RIGHT for start, stop in ends)


def test_a_first_run_is_not_said_to_have_moved_nothing() -> None:
    assert "There are not enough runs yet" in render_trend(nights(*noisy(1)), Expectations())
    assert "The last run moved nothing" in render_trend(nights(*noisy(40)), Expectations())
