"""What a resumed run keeps, and what it refuses to go on from; no ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_bench.bench.ledger import Ledger, entry
from mimo_bench.bench.request import RunRequest
from mimo_bench.bench.resume import read_earlier, same_training
from mimo_bench.bench.resume import resumed as resumed_from
from mimo_bench.cli import app as cli
from mimo_bench.layout.settings import Settings
from mimo_bench.record import AsTimed, LayoutRecord, Mode, Parity, RunRecord
from mimo_bench.record.files import write_run
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.scenario.training import Training
from mimo_bench.util.errors import UsageError
from tests.support import golden

NAMES = (golden.BASELINE, golden.DISJOINT, golden.WRONG)


def request(directory: Path, *, plant: str | None = None, modes: tuple[Mode, ...] = ("parity",)) -> RunRequest:
    return RunRequest(
        scenario=golden.scenario(),
        scenario_file=Path("three.toml"),
        layouts=NAMES,
        device_kind="cpu",
        modes=modes,
        directory=directory,
        resume=True,
        plant=plant,
        command=("mimo-bench", "run"),
    )


def open_ledger(directory: Path, *, earlier: RunRecord | None = None) -> Ledger:
    return Ledger(request(directory), earlier=earlier)


def judged(name: str) -> LayoutRecord:
    return next(layout for layout in golden.record().layouts if layout.name == name)


def killed_after(directory: Path, *names: str) -> RunRecord:
    """The record of a run that came to a verdict about these layouts and died in the next."""
    ledger = open_ledger(directory)
    for name in names:
        ledger.enter(judged(name))
    ledger.start(golden.scenario().case(NAMES[len(names)]))
    return ledger.record


def test_what_has_a_verdict_is_kept_and_the_baseline_is_trained_again_for_the_rest(tmp_path: Path) -> None:
    earlier = killed_after(tmp_path, golden.BASELINE, golden.DISJOINT)
    resumed = open_ledger(tmp_path, earlier=read_earlier(request(tmp_path)))
    assert resumed.kept == (golden.DISJOINT,)
    assert resumed.record.started_at == earlier.started_at
    assert [layout.status for layout in resumed.record.layouts] == ["passed", "passed", "not_run"]


def test_a_baseline_that_trains_otherwise_than_before_leaves_nothing_to_keep(tmp_path: Path) -> None:
    earlier = killed_after(tmp_path, golden.BASELINE, golden.DISJOINT)
    resumed = open_ledger(tmp_path, earlier=earlier)
    baseline = judged(golden.BASELINE)
    resumed.compare_with_earlier(baseline)
    assert list(resumed.kept) == [golden.DISJOINT]
    moved = baseline.model_copy(update={"losses": tuple(loss * 1.001 for loss in golden.LOSSES)})
    resumed.compare_with_earlier(moved)
    assert not resumed.kept
    assert "came out different" in resumed.record.resumptions[-1].reason


def test_a_baseline_whose_gradients_changed_is_not_the_same_training() -> None:
    before = judged(golden.BASELINE)
    norms = {**golden.GRAD_NORMS, "vision": (0.25, 0.46875, 0.4375)}
    assert same_training(before, before)
    assert not same_training(before.model_copy(update={"grad_norms": norms}), before)


def only_timed(record: RunRecord) -> RunRecord:
    """As timing mode alone leaves it: no losses, and verdicts as timed."""
    timed = {
        name: AsTimed(verdict="baseline" if name == record.baseline else "passed", reason="", num_steps=1)
        for name in NAMES
    }
    layouts = (
        layout.model_copy(
            update={
                "status": "unjudged",
                "losses": (),
                "parity": Parity(verdict="unjudged", reason="", as_timed=timed[layout.name]),
            }
        )
        if layout.status == "passed"
        else layout
        for layout in record.layouts
    )
    return record.model_copy(update={"modes": ("timing",), "layouts": tuple(layouts)})


def test_a_baseline_that_was_only_timed_is_timed_again_for_the_rest(tmp_path: Path) -> None:
    earlier = only_timed(killed_after(tmp_path, golden.BASELINE, golden.DISJOINT))
    resumption = resumed_from(open_ledger(tmp_path).record, earlier).resumptions[-1]
    assert resumption.kept == (golden.DISJOINT,)
    assert "timed again for the others" in resumption.reason
    baseline = next(layout for layout in earlier.layouts if layout.name == golden.BASELINE)
    crashed = baseline.model_copy(update={"status": "crashed", "parity": None})
    without = earlier.model_copy(update={"layouts": (crashed, *earlier.layouts[1:])})
    assert resumed_from(open_ledger(tmp_path).record, without).resumptions[-1].kept == ()


def test_a_layout_that_ended_without_a_record_is_run_again(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.enter(judged(golden.BASELINE))
    ledger.enter(judged(golden.DISJOINT))
    ledger.enter(entry(golden.scenario().case(golden.WRONG), status="crashed", reason="rank 1 was killed"))
    assert resumed_from(open_ledger(tmp_path / "fresh").record, ledger.record).resumptions[-1].kept == (
        golden.DISJOINT,
    )


def test_a_run_in_which_everything_was_judged_has_nothing_left_to_do(tmp_path: Path) -> None:
    earlier = killed_after(tmp_path, golden.BASELINE, golden.DISJOINT)
    done = tuple(
        layout if layout.name != golden.WRONG else judged(golden.WRONG).model_copy(update={"status": "parity_failed"})
        for layout in earlier.layouts
    )
    resumed = open_ledger(tmp_path, earlier=earlier.model_copy(update={"layouts": done}))
    assert resumed.kept == NAMES


@pytest.mark.parametrize(
    "field",
    ["scenario_hash", "code_hash"],
)
def test_a_record_of_another_experiment_is_refused_by_name(field: str, tmp_path: Path) -> None:
    record = killed_after(tmp_path, golden.BASELINE)
    write_run(tmp_path, record.model_copy(update={field: "0" * 64}))
    with pytest.raises(UsageError, match=rf"run\.json: {field} is 0+, and now it is .*name a new directory"):
        read_earlier(request(tmp_path))


def recorded(directory: Path, scenario: Scenario) -> None:
    """Let the record in `directory` be of `scenario`."""
    said = {"scenario": scenario.model_dump(mode="json"), "scenario_hash": scenario.content_hash}
    write_run(directory, killed_after(directory, golden.BASELINE).model_copy(update=said))


def test_another_scenario_is_refused_with_the_first_key_that_differs_and_both_values(tmp_path: Path) -> None:
    ours = golden.scenario()
    recorded(tmp_path, ours.model_copy(update={"training": Training(learning_rate=0.5, weight_decay=0.25)}))
    rate = ours.training.learning_rate
    with pytest.raises(
        UsageError, match=rf"json: scenario\.training\.learning_rate is 0\.5, and now it is {rate}; one"
    ):
        read_earlier(request(tmp_path))
    fused = ours.layout[1].model_copy(update={"settings": Settings(fused_rope=True)})
    recorded(tmp_path, ours.model_copy(update={"layout": (ours.layout[0], fused, *ours.layout[2:])}))
    key = rf"scenario\.layout\.{fused.name}\.settings\.fused_rope"
    with pytest.raises(UsageError, match=rf"{key} is true, and now it is false"):
        read_earlier(request(tmp_path))


def test_a_new_question_and_new_layouts_are_resumed_and_just_the_new_ones_trained(tmp_path: Path) -> None:
    ours = golden.scenario()
    two = ours.model_copy(update={"question": "In other words?", "layout": ours.layout[:2]})
    asked = request(tmp_path).model_copy(update={"scenario": two, "layouts": ()})
    first = Ledger(asked)
    first.enter(judged(golden.BASELINE))
    first.enter(judged(golden.DISJOINT))
    first.finish()
    resumed = open_ledger(tmp_path, earlier=read_earlier(request(tmp_path)))
    assert resumed.kept == (golden.DISJOINT,)
    status = {layout.name: layout.status for layout in resumed.record.layouts}
    assert status == {golden.BASELINE: "passed", golden.DISJOINT: "passed", golden.WRONG: "not_run"}
    assert resumed.record.question == ours.question
    assert resumed.record.scenario_hash == ours.content_hash
    assert resumed.record.finished_at is None


def test_a_layout_of_the_record_that_is_no_longer_run_is_refused(tmp_path: Path) -> None:
    killed_after(tmp_path, golden.BASELINE)
    fewer = request(tmp_path).model_copy(update={"layouts": NAMES[:2]})
    with pytest.raises(UsageError, match=f"layouts is {', '.join(NAMES)}, and now it is {', '.join(NAMES[:2])}"):
        read_earlier(fewer)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (
            "kill-rank@q",
            None,
            "was run with --plant kill-rank@q, and now no --plant was given; give --plant kill-rank@q",
        ),
        (
            None,
            "kill-rank",
            "was run with no fault planted, and now --plant kill-rank was given; leave it out, or name",
        ),
        (
            "kill-rank@q",
            "kill-rank",
            "with --plant kill-rank@q, and now --plant kill-rank was given; give --plant kill",
        ),
    ],
)
def test_a_run_with_another_fault_planted_is_refused(
    before: str | None, now: str | None, told: str, tmp_path: Path
) -> None:
    def tainted(fault: str | None) -> str | None:
        return None if fault is None else f"{fault} was planted on purpose"

    write_run(tmp_path, killed_after(tmp_path, golden.BASELINE).model_copy(update={"tainted": tainted(before)}))
    with pytest.raises(UsageError, match=told):
        read_earlier(request(tmp_path, plant=now))


def test_another_machine_or_library_is_refused_by_name(tmp_path: Path) -> None:
    record = killed_after(tmp_path, golden.BASELINE)
    environment = record.environment.model_copy(update={"torch": "1.0", "cpu": "an abacus"})
    write_run(tmp_path, record.model_copy(update={"environment": environment}))
    with pytest.raises(UsageError, match=r"environment.machine is \d+ x an abacus"):
        read_earlier(request(tmp_path))


def test_other_modes_are_refused(tmp_path: Path) -> None:
    killed_after(tmp_path, golden.BASELINE)
    with pytest.raises(UsageError, match="modes is parity, and now it is parity,timing"):
        read_earlier(request(tmp_path, modes=("parity", "timing")))


def test_resume_wants_the_directory_and_refuses_one_that_is_not_a_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = Path(__file__).parents[2] / "scenarios" / "cpu_smoke.toml"
    assert cli.main(["run", str(scenario), "--device", "cpu", "--resume"]) == 2
    assert "--resume: name the run to resume: --out DIR" in capsys.readouterr().err
    (tmp_path / "letters").write_text("dear", encoding="utf-8")
    assert cli.main(["run", str(scenario), "--device", "cpu", "--resume", "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
