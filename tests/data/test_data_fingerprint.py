"""What a user's own files hold: edits of rows are noticed by whoever goes on or compares, and moves are not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from mimo_bench.bench.ledger import Ledger
from mimo_bench.bench.request import RunRequest
from mimo_bench.cli.app import main
from mimo_bench.data.config import DataFingerprint, HuggingFaceData, locate
from mimo_bench.data.fingerprint import read_fingerprint
from mimo_bench.record import RunRecord
from mimo_bench.report.history.nights import nights_of
from mimo_bench.report.history.pair import compare_runs
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.trainer.checkpoint.files import MANIFEST, CheckpointManifest, path_of, write_json
from mimo_bench.trainer.pretraining import Pretraining
from mimo_bench.util.errors import DataError, ScenarioError, UsageError
from tests.support import golden
from tests.support.pictures import write_folder

SCENARIO = """
question = "Are edits noticed?"
model = "llava-tiny"
global_batch_size = 8
global_micro_batch_size = 4
seq_length = 64
baseline = "one-rank"

[data]
provider = "huggingface"
path = "{path}"
validation = "train[75%:]"
processor = "processor"

[[layout]]
name = "one-rank"
vision = {{}}
language = {{}}
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it should be."""
    folder = tmp_path_factory.mktemp("own")
    write_folder(folder)
    return folder


@pytest.fixture
def own(shared: Path, tmp_path: Path) -> Path:
    """A folder to edit, with a scenario."""
    folder = Path(shutil.copytree(shared, tmp_path / "own"))
    (folder / "own.toml").write_text(SCENARIO.format(path="train.jsonl"), encoding="utf-8")
    return folder


def fingerprint_of(folder: Path, path: str = "train.jsonl", **changes: Any) -> DataFingerprint:
    said = {"provider": "huggingface", "path": path, "processor": "processor", **changes}
    return read_fingerprint(HuggingFaceData.model_validate(locate(said, folder=folder)))


def edit_answer(folder: Path) -> None:
    """Another answer in one row, in as many bytes."""
    file = folder / "train.jsonl"
    before = file.read_text(encoding="utf-8")
    file.write_text(before.replace("a flower", "a rocket", 1), encoding="utf-8")
    assert file.stat().st_size == len(before)


def cut(folder: Path) -> None:
    """The first rows alone."""
    file = folder / "train.jsonl"
    file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:15]), encoding="utf-8")


def replace_image(folder: Path) -> None:
    """Another picture of the same name."""
    shutil.copy(folder / "pictures/moon.png", folder / "pictures/cat.png")


def remove_image(folder: Path) -> None:
    (folder / "pictures/cat.png").unlink()


def edit_template(folder: Path) -> None:
    """Another word in the chat template, of as many letters."""
    file = folder / "processor/chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8").replace("USER:", "Asks:"), encoding="utf-8")


def resize_images(folder: Path) -> None:
    file = folder / "processor/processor_config.json"
    file.write_text(
        file.read_text(encoding="utf-8").replace('"do_resize": true', '"do_resize": false'), encoding="utf-8"
    )


@pytest.mark.parametrize("change", [edit_answer, cut, replace_image, remove_image, edit_template, resize_images])
def test_a_change_of_rows_or_of_the_images_that_they_name_is_noticed(own: Path, change: Callable[[Path], None]) -> None:
    before = fingerprint_of(own)
    assert before.images is not None
    assert before.images.num_files == 8
    change(own)
    assert fingerprint_of(own) != before


def test_what_no_row_names_and_where_the_folder_lies_change_nothing(own: Path, tmp_path: Path) -> None:
    before = fingerprint_of(own)
    (own / "pictures/other.png").write_bytes(b"other")
    (own / "notes.json").write_text("{}", encoding="utf-8")
    for name in ("README.md", "config.json", "generation_config.json", "model.safetensors"):
        (own / "processor" / name).write_text("{}", encoding="utf-8")
    os.utime(own / "train.jsonl", (0, 0))
    scenario = load_scenario(own / "own.toml", with_fingerprint=True)
    (own / "processor").rename(own / "renamed")
    text = (own / "own.toml").read_text(encoding="utf-8").replace('"processor"', '"renamed"')
    (own / "own.toml").write_text(text, encoding="utf-8")
    assert load_scenario(own / "own.toml", with_fingerprint=True).content_hash == scenario.content_hash
    (own / "renamed").rename(own / "processor")
    moved = Path(shutil.move(own, tmp_path / "moved"))
    processor = str(moved / "processor")
    assert fingerprint_of(moved) == fingerprint_of(tmp_path, str(moved / "train.jsonl"), processor=processor) == before


@pytest.fixture
def photographs(shared: Path, tmp_path: Path) -> Path:
    """A folder of images with its metadata."""
    folder = Path(shutil.copytree(shared / "pictures", tmp_path / "photographs"))
    lines = [{"file_name": f"{name}.png", "question": "what is this ?", "answer": name} for name in ("cat", "moon")]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def of_folder(folder: Path) -> DataFingerprint:
    return fingerprint_of(folder.parent, folder.name, images="image", question="question", answer="answer")


def test_a_folder_of_images_goes_by_its_metadata_and_by_names_and_sizes(photographs: Path) -> None:
    before = of_folder(photographs)
    assert list(before.files) == ["metadata.jsonl"]
    assert before.images is not None
    assert before.images.num_files == 8
    # What a run leaves beside them is not data.
    (photographs / "out").mkdir()
    (photographs / "out/run.json").write_text("{}", encoding="utf-8")
    (photographs / ".thumbnail.png").write_bytes(b"small")
    assert of_folder(photographs) == before
    (photographs / "out/more.png").write_bytes(b"more")
    more = of_folder(photographs)
    assert more.images is not None
    assert (more.files, more.images.num_files) == (before.files, 9)
    (photographs / "out/more.png").rename(photographs / "more.png")
    assert of_folder(photographs) != more


def test_images_of_a_folder_are_not_opened(photographs: Path) -> None:
    before = of_folder(photographs)
    size = (photographs / "cat.png").stat().st_size
    (photographs / "cat.png").write_bytes(bytes(size))
    assert of_folder(photographs) == before


def test_every_table_of_a_folder_counts_and_so_do_the_images_that_their_rows_name(own: Path) -> None:
    tables = own / "tables"
    tables.mkdir()
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_json(str(own / "train.jsonl"))
    for name, part in (("train-0", range(12)), ("train-1", range(12, 24))):
        rows.select(part).to_parquet(tables / f"{name}.parquet")
    before = fingerprint_of(own, "tables")
    assert list(before.files) == ["train-0.parquet", "train-1.parquet"]
    assert before.images is not None
    assert before.images.num_bytes == 0  # they lie elsewhere
    (tables / "pictures").mkdir()
    shutil.copy(own / "pictures/cat.png", tables / "pictures/cat.png")
    shutil.copy(tables / "train-0.parquet", tables / "train-2.parquet")
    after = fingerprint_of(own, "tables")
    assert after.images is not None
    assert (len(after.files), after.images.num_files) == (3, 8)
    assert after.images.num_bytes == (own / "pictures/cat.png").stat().st_size


def test_names_on_the_hub_go_by_the_commit_that_datasets_knows(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(DataError, match=r"data\.path: 'team/photographs': its content cannot be read: .*network$"):
        fingerprint_of(own, "team/photographs")
    kept = tmp_path / "cache/team___photographs/default/0.0.0" / ("c0de" * 10)
    kept.mkdir(parents=True)
    (kept / "dataset_info.json").write_text(json.dumps({"config_name": "default"}), encoding="utf-8")
    found = fingerprint_of(own, "team/photographs")
    assert found == DataFingerprint(revision="c0de" * 10, processor=fingerprint_of(own).processor)


def test_a_scenario_is_another_where_rows_are_others_and_the_same_where_files_lie_elsewhere(
    own: Path, tmp_path: Path
) -> None:
    def load(file: Path) -> Scenario:
        return load_scenario(file, with_fingerprint=True)

    before = load(own / "own.toml")
    moved = Path(shutil.copytree(own, tmp_path / "moved"))
    (own / "own.toml").write_text(SCENARIO.format(path=moved / "train.jsonl"), encoding="utf-8")
    assert load(moved / "own.toml").content_hash == load(own / "own.toml").content_hash == before.content_hash
    assert Scenario.model_validate_json(before.model_dump_json()) == before
    edit_answer(moved)
    assert load(moved / "own.toml").content_hash != before.content_hash


def test_what_only_we_fill_in_is_refused_in_a_file(own: Path) -> None:
    text = SCENARIO.format(path="train.jsonl").replace("[[layout]]", "fingerprint = { revision = '1' }\n\n[[layout]]")
    (own / "own.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"data\.fingerprint: is filled in from path and processor; remove it"):
        load_scenario(own / "own.toml")


def begin(folder: Path, out: Path) -> RunRecord:
    """The record of a run that was killed in its first layout."""
    scenario = load_scenario(folder / "own.toml", with_fingerprint=True)
    ledger = Ledger(
        RunRequest(
            scenario=scenario,
            scenario_file=folder / "own.toml",
            device_kind="cpu",
            modes=("parity", "timing"),
            directory=out,
            command=("mimo-bench", "run"),
        )
    )
    ledger.start(scenario.case(scenario.baseline))
    return ledger.record


@pytest.mark.parametrize(
    ("change", "part"), [(edit_answer, "files.train.jsonl"), (edit_template, "processor.chat_template.jinja")]
)
def test_a_run_is_not_resumed_on_an_edited_row_or_template(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], part: str
) -> None:
    begin(own, tmp_path / "out")
    change(own)
    command = ["run", str(own / "own.toml"), "--device", "cpu", "--out", str(tmp_path / "out"), "--resume"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"run.json: scenario.data.fingerprint.{part}.sha256 is " in said
    assert "put back what was changed, or name a new directory" in said


def save(folder: Path, checkpoints: Path) -> None:
    """A checkpoint of that training, as far as its manifest goes."""
    scenario = load_scenario(folder / "own.toml")
    held_fixed = Pretraining.of(scenario, "one-rank", num_steps=3).held_fixed(scenario.data)
    path_of(checkpoints, 3).mkdir(parents=True)
    manifest = CheckpointManifest(num_steps=3, held_fixed=held_fixed, layout={}, files={})
    write_json(path_of(checkpoints, 3) / MANIFEST, manifest)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (edit_answer, "files.train.jsonl.sha256"),
        (cut, "files.train.jsonl.num_bytes"),
        (edit_template, "processor.chat_template.jinja.sha256"),
    ],
)
def test_a_training_does_not_go_on_with_other_rows_and_nothing_is_started(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], part: str
) -> None:
    save(own, tmp_path / "checkpoints")
    change(own)
    command = ["train", str(own / "own.toml"), "--layout", "one-rank", "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "out"), "--checkpoints", str(tmp_path / "checkpoints")]) == 2
    said = capsys.readouterr().err
    assert f"step-00000003: is of another training: data.fingerprint.{part} = " in said
    assert "resume with what it was, save to another directory, or start anew from its weights" in said
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_does_not_say_what_files_held_is_refused(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(own, tmp_path / "checkpoints")
    file = path_of(tmp_path / "checkpoints", 3) / MANIFEST
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["held_fixed"]["data"].pop("fingerprint")
    manifest["held_fixed"]["data"]["path"] = "train.jsonl"
    file.write_text(json.dumps(manifest), encoding="utf-8")
    command = ["train", str(own / "own.toml"), "--layout", "one-rank", "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "out"), "--checkpoints", str(tmp_path / "checkpoints")]) == 2
    assert "is of another training: data.fingerprint = " in capsys.readouterr().err


def test_runs_on_other_rows_are_no_series_and_are_not_compared(own: Path, tmp_path: Path) -> None:
    old = begin(own, tmp_path / "old")
    moved = Path(shutil.copytree(own, tmp_path / "moved"))
    new = begin(moved, tmp_path / "new")
    assert [side.layout for side in compare_runs(old, new)] == ["one-rank"]
    cut(moved)
    new = begin(moved, tmp_path / "new")
    with pytest.raises(UsageError, match=r"data\.fingerprint\.files\.train\.jsonl\.num_bytes was \d+ and is \d+"):
        compare_runs(old, new)
    edit_template(own)
    with pytest.raises(UsageError, match=r"data\.fingerprint\.processor\.chat_template\.jinja\.sha256 was "):
        compare_runs(old, begin(own, tmp_path / "newer"))
    (before,), (after,) = nights_of(old, run="old"), nights_of(new, run="new")
    assert before.series != after.series


def test_records_of_drawn_samples_hold_nothing_of_files() -> None:
    assert "fingerprint" not in golden.scenario().model_dump(mode="json")["data"]
