"""A training goes on from a checkpoint: bit for bit in its layout, with parity in any other, or not at all."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.launch import Launcher
from mimo_bench.layout.settings import Settings
from mimo_bench.layout.tables import GridTable, LayoutTable
from mimo_bench.models.hf.directory import read_manifest, tensors_of
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.scenario.training import Training
from tests.ranks.trainer_job import run_entry

SHARDED = Settings(distributed_optimizer=True, overlap_grad_reduce=True, overlap_param_gather=True)
LAYOUTS = (
    LayoutTable(name="one-rank", vision=GridTable(), language=GridTable()),
    LayoutTable(name="sharded", vision=GridTable(tp=2), language=GridTable(dp=2), settings=SHARDED),
    LayoutTable(name="stages", vision=GridTable(pp=2), language=GridTable(tp=2, rank_offset=2)),
    LayoutTable(name="language-pp2", vision=GridTable(), language=GridTable(pp=2, rank_offset=1)),
)
OF_EXPERTS = (
    LAYOUTS[0],
    LayoutTable(name="sharded", vision=GridTable(), language=GridTable(dp=4, ep=2, rank_offset=1), settings=SHARDED),
    LayoutTable(
        name="stages",
        vision=GridTable(),
        language=GridTable(tp=2, pp=2, ep=2, rank_offset=1),
        settings=Settings(sequence_parallel=True),
    ),
)


def scenario(**changes: Any) -> Scenario:
    fixed: dict[str, Any] = {
        "layout": LAYOUTS,
        "model": "llava-tiny",
        "seq_length": 32,
        "global_batch_size": 4,
        "global_micro_batch_size": 2,
        "training": Training(warmup_steps=3, decay="cosine", decay_steps=6),
    }
    made = Scenario(question="Does it go on?", baseline="one-rank", **fixed | changes)
    made.check()
    return made


class Runs:
    """Trainings of one scenario that save to one directory."""

    def __init__(self, launcher: Launcher, folder: Path, **changes: Any) -> None:
        self._launcher, self._folder, self._scenario = launcher, folder, scenario(**changes)
        self.directory = folder / "checkpoints"
        self._num_runs = 0

    def run(self, layout: str, *, resume: bool = True, until: int = 4, **arguments: Any) -> list[Any]:
        """Return the numbers of every rank; its checkpoints go to `directory`."""
        self._num_runs += 1
        folder = self._folder / f"run{self._num_runs}"
        arguments = {"save_after": [], "resume": resume, "until": until, "directory": str(self.directory)} | arguments
        num_ranks = run_entry(
            self._launcher, "train", self._scenario, layout, folder, module="checkpoint_entries", **arguments
        )
        return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(num_ranks)]

    @property
    def saved(self) -> list[str]:
        """The names of what lies there."""
        return sorted(path.name for path in self.directory.iterdir())


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("sharded", {}),
        ("sharded", {"precision": "bf16"}),
        ("one-rank", {"precision": "bf16"}),
        ("stages", {"training": Training(freeze=("vision.encoder",))}),
    ],
)
def test_a_training_goes_on_in_its_layout_bit_for_bit(
    launcher: Launcher, tmp_path: Path, layout: str, changes: dict[str, Any]
) -> None:
    runs = Runs(launcher, tmp_path, **changes)
    whole = runs.run(layout, resume=False, save_after=[2])
    resumed = runs.run(layout)
    assert [rank["resumed_after"] for rank in resumed] == [2] * len(whole)
    for before, after in zip(whole, resumed, strict=True):
        assert after["losses"] == before["losses"][2:]
        assert after["digests"] == before["digests"]


@pytest.mark.parametrize("model", ["llava-tiny", "siglip-qwen2-tiny"])  # the second ties embeddings and pads them
def test_a_training_goes_on_in_any_other_layout(launcher: Launcher, tmp_path: Path, model: str) -> None:
    runs = Runs(launcher, tmp_path, model=model, seq_length=48)
    losses = runs.run("one-rank", resume=False, save_after=[2])[0]["losses"]
    assert len(set(losses)) == 4
    for layout in ("sharded", "stages", "language-pp2"):
        # Saved by one layout and gone on with in the next, one step each.
        (found, *_) = runs.run(layout)
        assert found["losses"] == pytest.approx(losses[2:], rel=1e-6)
    # And from shards back to one rank.
    runs.run("sharded", resume=False, until=2, save_after=[2])
    assert runs.run("one-rank")[0]["losses"] == pytest.approx(losses[2:], rel=1e-6)


def test_copies_of_a_tied_weight_that_differ_are_not_saved(launcher: Launcher, tmp_path: Path) -> None:
    runs = Runs(launcher, tmp_path, model="siglip-qwen2-tiny", seq_length=48)
    (tmp_path / "weights").mkdir()
    ranks = runs.run(
        "language-pp2", resume=False, until=1, save_after=[1], drift=1e-6, write_to=str(tmp_path / "weights")
    )
    complaint = (
        "language.embedding.word_embeddings.weight: the first and the last pipeline stage hold different values of "
        "this tied weight; nothing was saved"
    )
    for rank in ranks:
        assert re.search(rf"step-00000001: {complaint}", rank["problem"])
        assert re.search(complaint, rank["weights_problem"])
    assert not runs.directory.exists()
    assert list((tmp_path / "weights").iterdir()) == []


NAMES = [table.name for table in LAYOUTS]


@pytest.mark.nightly
@pytest.mark.parametrize("resumed", NAMES)
@pytest.mark.parametrize("saved", NAMES)
def test_any_layout_resumes_what_any_other_saved(launcher: Launcher, tmp_path: Path, saved: str, resumed: str) -> None:
    runs = Runs(launcher, tmp_path)
    losses = runs.run("one-rank", resume=False)[0]["losses"]
    runs.run(saved, resume=False, until=2, save_after=[2])
    found = runs.run(resumed)[0]
    assert (found["resumed_after"], found["losses"]) == (2, pytest.approx(losses[2:], rel=1e-6))


def test_experts_go_on_wherever_they_are_dealt_out(launcher: Launcher, tmp_path: Path) -> None:
    runs = Runs(launcher, tmp_path, model="llava-moe-tiny", layout=OF_EXPERTS, global_micro_batch_size=4)
    losses = runs.run("one-rank", resume=False, save_after=[2])[0]["losses"]
    # Each layout takes over the other's experts, and hands on its own.
    for layout in ("sharded", "stages"):
        found = runs.run(layout, resume=True, until=3, save_after=[3])
        assert found[0]["losses"] == pytest.approx(losses[2:3], rel=1e-6)
        again = runs.run("one-rank")[0]
        assert (again["resumed_after"], again["losses"]) == (3, pytest.approx(losses[3:], rel=1e-6))
        shutil.rmtree(runs.directory / "step-00000003")


def test_a_checkpoint_is_a_directory_of_weights_and_holds_no_pickle(launcher: Launcher, tmp_path: Path) -> None:
    runs = Runs(launcher, tmp_path)
    runs.run("language-pp2", resume=False, until=1, save_after=[1])
    (checkpoint,) = runs.directory.iterdir()
    assert {path.suffix for path in checkpoint.iterdir()} == {".json", ".safetensors"}
    manifest = read_manifest(checkpoint)
    assert manifest.shape == scenario().shape
    embedding = tensors_of(checkpoint, "language")["language.embedding.word_embeddings.weight"]
    assert (embedding.spec.dtype, embedding.spec.shape[1]) == ("F32", 64)


def test_a_checkpoint_is_written_while_training_goes_on_and_old_ones_are_removed(
    launcher: Launcher, tmp_path: Path
) -> None:
    runs = Runs(launcher, tmp_path)
    whole = runs.run("stages", resume=False, save_after=[1, 2, 3], in_background=True)
    assert runs.saved == ["step-00000002", "step-00000003"]
    assert [rank["digests"] for rank in runs.run("stages")] == [rank["digests"] for rank in whole]


@pytest.mark.parametrize("in_background", [False, True])
def test_a_disk_that_fails_is_told_to_every_rank_and_ends_nothing(
    launcher: Launcher, tmp_path: Path, in_background: bool
) -> None:
    runs = Runs(launcher, tmp_path)
    runs.directory.write_text("a file where the directory should be")
    for rank in runs.run("language-pp2", resume=False, until=2, save_after=[1], in_background=in_background):
        assert rank["problem"].startswith(
            f"{runs.directory / '.step-00000001.tmp'}: Not a directory; nothing was saved"
        )
        assert len(rank["losses"]) == 2


def test_nothing_is_left_of_a_checkpoint_that_the_disk_had_no_room_for(launcher: Launcher, tmp_path: Path) -> None:
    runs = Runs(launcher, tmp_path)
    for rank in runs.run("language-pp2", resume=False, until=2, save_after=[1], file_bytes=200_000):
        assert re.match(rf"{runs.directory}.*: File too large; nothing was saved", rank["problem"])
        assert len(rank["losses"]) == 2
    assert runs.saved == []


def test_what_is_not_whole_is_named_and_the_one_before_it_is_taken(launcher: Launcher, tmp_path: Path) -> None:
    runs = Runs(launcher, tmp_path)
    runs.run("one-rank", resume=False, until=2, save_after=[1, 2])
    # As a machine that went down in the middle leaves it: one that is not in its place yet is not looked at.
    (runs.directory / ".step-00000003.tmp").mkdir()
    newest, older = (runs.directory / f"step-0000000{step}" for step in (2, 1))
    cut = newest / "language.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    (found,) = runs.run("one-rank", until=1)
    assert found["resumed_after"] == 1
    (said,) = found["passed_over"]
    size = cut.stat().st_size
    assert said == (
        f"{cut}: has {size} bytes of {size + 100}; it was cut short; resuming from the checkpoint before it"
    )
    # A single bit elsewhere is seen by its hash.
    moment = older / "vision.exp_avg.safetensors"
    content = bytearray(moment.read_bytes())
    content[-1] ^= 1
    moment.write_bytes(content)
    (found,) = runs.run("one-rank", until=1)
    assert found["problem"].startswith(f"{runs.directory}: no checkpoint is whole: {cut}: ")
    assert f"{moment}: its SHA-256 is not the one that was written" in found["problem"]


def test_a_damaged_one_takes_no_place_from_those_that_are_kept_and_what_was_never_finished_goes(
    launcher: Launcher, tmp_path: Path
) -> None:
    runs = Runs(launcher, tmp_path)
    runs.run("one-rank", resume=False, until=4, save_after=[1, 4])
    (runs.directory / "step-00000004" / "language.safetensors").unlink()
    # Left by a process that was killed in the middle; its step may never be saved again.
    (runs.directory / ".step-00000009.tmp").mkdir()
    (found,) = runs.run("one-rank", until=3, save_after=[2, 3], keep_last=1)
    assert found["resumed_after"] == 1
    assert runs.saved == ["step-00000003", "step-00000004"]
    (again,) = runs.run("one-rank", until=4)
    assert (again["resumed_after"], len(again["losses"])) == (3, 1)


def test_ranks_that_do_not_see_the_same_checkpoints_are_told_so_and_do_not_wait_for_each_other(
    launcher: Launcher, tmp_path: Path
) -> None:
    runs = Runs(launcher, tmp_path)
    runs.run("one-rank", resume=False, until=1, save_after=[1])
    # As on a second node, where a directory of that name lies on a disk of its own.
    runs.directory.rename(tmp_path / "node1")
    runs.directory = tmp_path / "node{rank}"
    for found in runs.run("language-pp2"):
        seen = "the newest checkpoint there is none on rank 0, and step-00000001 on rank 1; name a directory that all"
        assert seen in found["problem"]


def test_another_training_does_not_go_on_from_it(launcher: Launcher, tmp_path: Path) -> None:
    Runs(launcher, tmp_path).run("one-rank", resume=False, until=1, save_after=[1])
    (found,) = Runs(launcher, tmp_path, training=Training(learning_rate=0.5)).run("one-rank")
    assert "step-00000001: is of another training: training.decay = 'constant', and it was 'cosine'" in found["problem"]


def test_where_nothing_was_saved_a_training_begins_at_its_first_step(launcher: Launcher, tmp_path: Path) -> None:
    (found,) = Runs(launcher, tmp_path).run("one-rank", until=1)
    assert (found["resumed_after"], found["problem"], len(found["losses"])) == (None, None, 1)
