"""A training in values: what it takes over from a scenario, what is due after which step, and what it is known by."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from mimo_bench.data.config import Contents, HuggingFaceData, Split, SyntheticData
from mimo_bench.layout.limits import WITHOUT_FP16
from mimo_bench.layout.tables import GridTable, LayoutTable
from mimo_bench.models import PRESETS
from mimo_bench.scenario.scenario import LoaderTable, Scenario, StoredContent
from mimo_bench.scenario.training import Training
from mimo_bench.trainer.arguments import check_argument
from mimo_bench.trainer.logging import EvaluationTotals, Logging, Metrics, StepResult, read_metrics
from mimo_bench.trainer.pretraining import Pretraining, Saving, Validation, parse_data
from mimo_bench.util.errors import ScenarioError, UsageError


def training(**changes: Any) -> Pretraining:
    plain = Pretraining(
        shape=PRESETS["llava-tiny"], seq_length=32, global_batch_size=4, global_micro_batch_size=2, num_steps=7
    )
    return replace(plain, **changes)


def test_a_training_takes_over_what_its_scenario_says_but_for_what_is_given() -> None:
    made = Scenario(
        question="Is all of it taken over?",
        model="llava-tiny",
        weights="ours",
        stored=StoredContent(content_hash="0", directory="/there/ours"),
        seed=0,
        global_batch_size=8,
        global_micro_batch_size=4,
        seq_length=48,
        precision="bf16",
        baseline="one",
        loader=LoaderTable(num_workers=5, num_ahead=3),
        training=Training(learning_rate=0.5),
        layout=(LayoutTable(name="one", vision=GridTable(), language=GridTable(), global_micro_batch_size=2),),
    )
    assert Pretraining.of(made, "one", num_steps=7) == Pretraining(
        shape=PRESETS["llava-tiny"],
        seq_length=48,
        global_batch_size=8,
        global_micro_batch_size=2,
        num_steps=7,
        training=Training(learning_rate=0.5),
        loader=LoaderTable(num_workers=5, num_ahead=3),
        precision="bf16",
        seed=0,
        weights=Path("/there/ours"),
    )
    other = Pretraining.of(made, "one", num_steps=7, weights=Path("theirs"), seed=0)
    assert (other.weights, other.seed) == (Path("theirs"), 0)


def test_evaluations_come_when_the_validation_settings_say_and_not_when_others_do() -> None:
    asked = Validation(every=3, num_batches=2, num_test_batches=5)
    run = training(validation=asked, saving=Saving(directory=Path("out"), every=2), logging=Logging(every=1))
    assert {step: found for step in range(1, 8) if (found := run.scored_after(step))} == {
        3: {"validation": 2},
        6: {"validation": 2},
        7: {"validation": 2, "test": 5},
    }
    assert [step for step in range(1, 8) if run.is_saved_after(step)] == [2, 4, 6, 7]
    assert run.num_batches == {"train": 7, "validation": 2, "test": 5}


def test_without_validation_settings_nothing_is_evaluated_and_without_saving_nothing_saved() -> None:
    run = training()
    assert [run.scored_after(step) for step in range(1, 8)] == [{}] * 7
    assert not any(map(run.is_saved_after, range(1, 8)))
    assert run.num_batches == {"train": 7, "validation": 0, "test": 0}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda: Validation(every=0, num_batches=1), "validation.every = 0: give a whole number of at least 1"),
        (lambda: Validation(every=1, num_batches=0), "validation.num_batches = 0: give a whole number of at least 1"),
        (lambda: Saving(directory=Path("out"), every=0), "saving.every = 0: give a whole number of at least 1"),
        (lambda: Saving(directory=Path("out"), keep_last=0), "saving.keep_last = 0: give a whole number of at least 1"),
        (lambda: Logging(every=0), "logging.every = 0: give a whole number of at least 1"),
        (lambda: training(num_steps=0), "num_steps = 0: give a whole number of at least 1"),
        (lambda: training(num_steps=2.5), "num_steps = 2.5: give a whole number of at least 1"),
        (lambda: training(global_micro_batch_size=0), "global_micro_batch_size = 0: give a whole number of at least 1"),
        (lambda: training(seed=-1), "seed = -1: give a whole number of at least 0"),
        (lambda: training(precision="fp61"), "precision = 'fp61': "),
        (lambda: Logging(directory=cast("Path", "out")), "logging.directory = 'out': give a pathlib.Path"),
        (lambda: Saving(directory=cast("Path", "out")), "saving.directory = 'out': give a pathlib.Path"),
        (lambda: training(weights="out"), "weights = 'out': give a pathlib.Path"),
        (lambda: training(shape="llava-tiny"), "shape = 'llava-tiny': give a ModelShape, such as "),
        (lambda: training(settings={"fused_rope": True}), "settings = {'fused_rope': True}: give a Settings, such as "),
        (lambda: training(training={}), "training = {}: give a Training, such as "),
        (lambda: training(saving="checkpoints"), "saving = 'checkpoints': give a Saving, such as "),
        (lambda: check_argument("split", "val", Split), "split = 'val': use one of train, validation, test"),
        (lambda: check_argument("split", "tset", Split), "split = 'tset': did you mean 'test'?"),
    ],
)
def test_an_interval_or_a_number_that_cannot_be_is_refused(wrong: Callable[[], object], complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)):
        wrong()


def test_fp16_is_refused_with_the_reason_that_a_scenario_is_refused_with() -> None:
    with pytest.raises(UsageError) as refused:
        training(precision="fp16")
    assert str(refused.value) == f"precision = 'fp16': {WITHOUT_FP16}"
    assert "scales the loss for each module on its own" in WITHOUT_FP16


def test_what_a_checkpoint_must_have_in_common_does_not_depend_on_where_files_lie_and_on_counts(
    tmp_path: Path,
) -> None:
    known: list[dict[str, Any]] = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        file = tmp_path / place / "rows.jsonl"
        file.write_text('{"images": []}\n', encoding="utf-8")
        contents = Contents(num_samples={"train": len(known) + 1}, most_images=1, num_trained_on={})
        said = {"provider": "huggingface", "path": str(file), "processor": "processor"}
        data = HuggingFaceData.model_validate({**said, "located": {"path": str(file)}, "contents": contents})
        known.append(training(loader=LoaderTable(num_workers=len(known) + 1)).held_fixed(data))
    assert known[0] == known[1]
    assert json.loads(json.dumps(known[0])) == known[0]
    assert known[0]["data"]["fingerprint"]["files"]["rows.jsonl"]["num_bytes"] == 15
    assert training(seed=1).held_fixed("digits") != training(seed=0).held_fixed("digits")
    assert training().held_fixed("digits") != training().held_fixed("synthetic")


def test_samples_of_a_users_own_are_told_apart_by_class_and_by_the_hash_that_they_say() -> None:
    class Rows:
        content_hash: Any = None

    rows = Rows()
    named = training().held_fixed(rows)["data"]
    assert named.endswith("Rows")
    rows.content_hash = "0" * 64
    assert training().held_fixed(rows)["data"] == {"class": named, "content_hash": "0" * 64}
    rows.content_hash = 5
    with pytest.raises(UsageError, match=r"data\.content_hash = 5: give a str, such as a digest of the files"):
        training().held_fixed(rows)


def test_samples_of_ours_go_by_name_or_description_and_files_are_looked_for_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse_data("synthetic-filled") == parse_data(SyntheticData(shortest_text=1.0))
    with pytest.raises(ScenarioError, match=r"data: 'digit' is not known; did you mean 'digits'\?"):
        parse_data("digit")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").touch()
    found = parse_data(HuggingFaceData(provider="huggingface", path="rows.jsonl", processor="processor"))
    assert isinstance(found, HuggingFaceData)
    assert found.place("path") == tmp_path / "rows.jsonl"


def test_a_loss_that_is_no_number_is_null_in_the_metrics(tmp_path: Path) -> None:
    metrics = Metrics(Logging(directory=tmp_path, tensorboard=False), num_steps=2, first_step=0, is_writer=True)
    result = StepResult(
        loss=float("nan"), grad_norms={"vision": 2.0}, num_tokens=8, num_token_pairs=64, num_items={}, num_scored=3
    )
    seconds = metrics.step(1, result, learning_rates={"vision": 0.5}, num_samples=4)
    metrics.evaluation(
        1, "test", EvaluationTotals(loss=float("inf"), answer_accuracy=0.25, num_samples=4, num_scored=3)
    )
    step, test = read_metrics(tmp_path)
    assert (step["loss"], step["grad_norm"], step["step_seconds"]) == (None, 2.0, seconds)
    assert test == {"step": 1, "test_loss": None, "test_answer_accuracy": 0.25, "test_samples": 4}


class Board:
    """Stands in for TensorBoard's writer, which is not installed everywhere: what it was told, by name and step."""

    made: ClassVar[list[Board]] = []

    def __init__(self, directory: str, *, purge_step: int) -> None:
        self.directory, self.purge_step, self.is_closed = directory, purge_step, False
        self.scalars: dict[tuple[str, int], float] = {}
        self.made.append(self)

    def add_scalar(self, name: str, value: float, *, global_step: int) -> None:
        """Keep it."""
        self.scalars[name, global_step] = value

    def close(self) -> None:
        """Remember it."""
        self.is_closed = True


def test_tensorboard_gets_what_the_log_gets_and_a_training_that_goes_on_takes_back_later_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimo_bench.trainer.logging.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", SimpleNamespace(SummaryWriter=Board))
    logging = Logging(directory=tmp_path, module_grad_norms=True)
    metrics = Metrics(logging, num_steps=9, first_step=2, is_writer=True)
    metrics.begin(skipped_samples={"train": 2}, passed_over=["step 3 was cut short"])
    result = StepResult(
        loss=0.5, grad_norms={"vision": 2.0}, num_tokens=8, num_token_pairs=64, num_items={}, num_scored=3
    )
    metrics.step(3, result, learning_rates={"vision": 0.25}, num_samples=4)
    totals = EvaluationTotals(loss=0.75, answer_accuracy=0.5, num_samples=4, num_scored=3)
    metrics.evaluation(3, "validation", totals)
    metrics.close()
    (board,) = Board.made
    # TensorBoard forgets this step and those behind it: the second stays, as its line in the log does.
    assert (board.directory, board.purge_step, board.is_closed) == (str(tmp_path), 3, True)
    told = {name: value for (name, step), value in board.scalars.items() if step == 3}
    begun, step, validation = read_metrics(tmp_path)
    # What a training does without is words, and so in the log alone.
    assert begun == {"step": 2, "skipped_samples": {"train": 2}, "passed_over": ["step 3 was cut short"]}
    assert {step for _, step in board.scalars} == {3}
    flat = {"learning_rate/vision": 0.25, "grad_norms/vision": 2.0}
    flat |= {name: value for name, value in (step | validation).items() if isinstance(value, float | int)}
    assert told | {"step": 3} == flat
    Metrics(replace(logging, tensorboard=False), num_steps=9, first_step=2, is_writer=True).close()
    Metrics(logging, num_steps=9, first_step=2, is_writer=False).close()
    assert Board.made == [board]
