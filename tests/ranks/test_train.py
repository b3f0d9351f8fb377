"""`mimo-bench train`: from a checkpoint of `transformers` through a disjoint layout and back, as a user does it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mimo_bench.bench.request import TrainRequest
from mimo_bench.bench.train import resume_hint, run_training
from mimo_bench.cli import app as cli
from mimo_bench.cli.exits import BAD_INPUT, NO_RECORD
from mimo_bench.data.prepare import build_dataset
from mimo_bench.launch import Launcher
from mimo_bench.models.hf.directory import read_manifest
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.trainer.checkpoint.files import MANIFEST as CHECKPOINT
from mimo_bench.trainer.checkpoint.files import CheckpointManifest, saved_in, write_json
from mimo_bench.trainer.logging import read_metrics
from tests.support import oracle
from tests.support.checkpoints import CONFIGS, load, save_random
from tests.support.pictures import row, write_folder

pytestmark = pytest.mark.usefixtures("warm_commands")

CONFIG: dict[str, Any] = {
    "model_type": "llava",
    "image_token_index": 190,
    "vision_feature_layer": -2,
    "vision_config": {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "image_size": 24,
        "num_attention_heads": 2, "num_hidden_layers": 4, "patch_size": 8,
    },
    "text_config": {
        "model_type": "llama", "hidden_size": 48, "intermediate_size": 80, "max_position_embeddings": 128,
        "num_attention_heads": 6, "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 197,
    },
}  # fmt: skip
"""A shape that no other test has: no width is that of another, and no TP divides the vocabulary."""

SCENARIO = """
question = "Do our weights go through?"
model = "ours/config.json"
weights = "ours"
global_batch_size = 4
global_micro_batch_size = 2
seq_length = 32
baseline = "one"

[[layout]]
name = "one"
vision = {}
language = {}

[[layout]]
name = "apart"
vision = {}
language = { tp = 2, rank_offset = 1 }
"""

DRAWN = SCENARIO.replace('model = "ours/config.json"\nweights = "ours"', 'model = "llava-tiny"')
"""A scenario on weights that the seed draws."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a checkpoint of `transformers`, as `theirs`, and a scenario on its weights."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    save_random(tmp_path / "config.json", tmp_path / "theirs", scale=0.1)
    (tmp_path / "case.toml").write_text(SCENARIO, encoding="utf-8")
    return tmp_path


def expected_loss(scenario: Scenario, checkpoint: Path) -> float:
    """Return the loss of `transformers` on the first global batch with weights that it loads itself."""
    dataset = build_dataset(scenario.data, shape=scenario.shape, seq_length=scenario.seq_length, seed=scenario.seed)
    ids = range(scenario.global_batch_size)
    samples = [(dataset.encoder_inputs("vision", "train", k), dataset.text("train", k)) for k in ids]
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, local_files_only=True)
    return oracle.run_referee(model, samples).loss


def losses(log: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(log.parent) if "loss" in line]


def options(scenario: Scenario, layout: str, directory: Path, **changes: Any) -> TrainRequest:
    """Options of one step on CPU ranks from drawn weights; `changes` replace some."""
    fixed: dict[str, Any] = {"num_steps": 1, "device_kind": "cpu", "hang_seconds": 120.0}
    fixed |= dict.fromkeys(("start", "save", "checkpoints", "checkpoint_every", "validate_every", "config"))
    return TrainRequest(scenario=scenario, layout=layout, directory=directory, **fixed | changes)


def test_a_checkpoint_is_imported_trained_apart_and_exported_and_transformers_gets_the_next_loss(
    place: Path, launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, trained, exported = place / "ours", place / "trained", place / "exported"
    assert cli.main(["import", str(place / "theirs"), str(ours)]) == 0
    arguments = [
        "--layout",
        "apart",
        "--steps",
        "3",
        "--device",
        "cpu",
        "--save",
        str(trained),
        "--validate-every",
        "2",
    ]
    assert cli.main(["train", str(place / "case.toml"), *arguments, "--out", str(place / "out")]) == 0
    assert cli.main(["export", str(trained), str(exported)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"step 3/3: loss \S+, gradient norms: .*; \S+ tokens/s, \S+ s/step, ends in 0:00:00\n", printed)
    # After the second step, as asked for, and after the last; the log has the same.
    told = [line for line in read_metrics(place / "out") if "validation_loss" in line]
    assert [line["step"] for line in told] == [2, 3]
    for line in told:
        assert f"step {line['step']}: validation loss {line['validation_loss']:.6g}, " in printed
    assert f"weights: {trained} (no optimizer state, no place in the data)" in printed

    scenario = load_scenario(place / "case.toml")
    seen = losses(place / "out" / "metrics.jsonl")
    assert len(seen) == 3
    assert seen[0] == pytest.approx(expected_loss(scenario, place / "theirs"), rel=1e-6)
    # The weights that came out of three steps, on the first batch again.
    run_training(options(scenario, "one", place / "next", start=trained), launcher=launcher, on_line=lambda _: None)
    (following,) = losses(place / "next" / "metrics.jsonl")
    assert following == pytest.approx(expected_loss(scenario, exported), rel=1e-6)
    assert following < seen[0] - 0.01

    before, after = (load_file(each / "model.safetensors") for each in (place / "theirs", exported))
    assert set(before) == set(after)
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    aside = set(load_file(ours / "aside.safetensors"))
    assert len(aside) == 16 + 2  # one layer after the feature layer, and the last norm
    assert unchanged == aside


SPOKEN = """
question = "Does a Voxtral go through?"
model = "ours/config.json"
weights = "ours"
global_batch_size = 4
global_micro_batch_size = 2
seq_length = 32
baseline = "one"

[[layout]]
name = "one"
audio = {}
language = {}

[[layout]]
name = "apart"
audio = { dp = 2 }
language = { tp = 2, rank_offset = 2 }
"""


def spoken_loss(scenario: Scenario, checkpoint: Path) -> float:
    """Return the loss of `transformers` on the first global batch of clips with weights that it loads itself."""
    dataset = build_dataset(scenario.data, shape=scenario.shape, seq_length=scenario.seq_length, seed=scenario.seed)
    ids = range(scenario.global_batch_size)
    texts = [dataset.text("train", k) for k in ids]
    labels = [text.tokens.where(text.is_answer, oracle.NOT_SCORED) for text in texts]
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    model = load(checkpoint).double()
    output = model(
        input_ids=pad([text.tokens for text in texts]),
        input_features=torch.cat([dataset.encoder_inputs("audio", "train", k) for k in ids]).double(),
        labels=pad(labels, padding_value=oracle.NOT_SCORED),
    )
    loss: float = output.loss.item()
    return loss


def test_a_voxtral_is_imported_trained_apart_and_exported_and_transformers_gets_the_next_loss(
    launcher: Launcher, tmp_path: Path
) -> None:
    save_random(CONFIGS / "voxtral.json", tmp_path / "theirs", scale=0.1)
    (tmp_path / "case.toml").write_text(SPOKEN, encoding="utf-8")
    assert cli.main(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    arguments = ["--layout", "apart", "--steps", "3", "--device", "cpu", "--save", str(tmp_path / "trained")]
    assert cli.main(["train", str(tmp_path / "case.toml"), *arguments, "--out", str(tmp_path / "out")]) == 0
    assert cli.main(["export", str(tmp_path / "trained"), str(tmp_path / "exported")]) == 0
    scenario = load_scenario(tmp_path / "case.toml")
    seen = losses(tmp_path / "out" / "metrics.jsonl")
    assert seen[0] == pytest.approx(spoken_loss(scenario, tmp_path / "theirs"), rel=1e-6)
    trained = options(scenario, "one", tmp_path / "next", start=tmp_path / "trained")
    run_training(trained, launcher=launcher, on_line=lambda _: None)
    (following,) = losses(tmp_path / "next" / "metrics.jsonl")
    assert following == pytest.approx(spoken_loss(scenario, tmp_path / "exported"), rel=1e-6)
    assert following < seen[0] - 0.01


def test_what_overlap_leaves_to_the_next_forward_is_gathered_before_it_is_written(
    place: Path, launcher: Launcher
) -> None:
    sharded = "settings = { distributed_optimizer = true"
    overlapped = f"{sharded}, overlap_grad_reduce = true, overlap_param_gather = true"
    text = DRAWN
    for name, settings in (("plain", sharded), ("overlapped", overlapped)):
        text += (
            f'\n[[layout]]\nname = "{name}"\nvision = {{}}\nlanguage = {{ dp = 2, rank_offset = 1 }}\n{settings} }}\n'
        )
    (place / "case.toml").write_text(text, encoding="utf-8")
    scenario = load_scenario(place / "case.toml")
    for layout in ("plain", "overlapped"):
        run_training(
            options(scenario, layout, place / "out" / layout, num_steps=2, save=place / layout),
            launcher=launcher,
            on_line=lambda _: None,
        )
    assert read_manifest(place / "plain").content_hash == read_manifest(place / "overlapped").content_hash
    assert losses(place / "out" / "plain" / "metrics.jsonl") == losses(place / "out" / "overlapped" / "metrics.jsonl")


def test_a_training_goes_on_from_its_newest_checkpoint_bit_for_bit_and_in_another_layout_with_parity(
    place: Path, launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "case.toml").write_text(DRAWN, encoding="utf-8")
    scenario = load_scenario(place / "case.toml")

    def run(name: str, layout: str, **changes: Any) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        asked = options(scenario, layout, place / "out" / name, save=place / name, **changes)
        run_training(asked, launcher=launcher, on_line=told.append)
        return told

    whole = run("whole", "one", num_steps=5)
    parts = {"checkpoints": place / "checkpoints", "checkpoint_every": 2}
    # As if it had been stopped after the third step: the one that its end leaves is not there.
    run("first", "one", num_steps=3, **parts)
    assert saved_in(place / "checkpoints") == [place / "checkpoints" / f"step-0000000{step}" for step in (3, 2)]
    shutil.rmtree(place / "checkpoints" / "step-00000003")
    shutil.copytree(place / "checkpoints", place / "elsewhere")
    arguments = ["--layout", "one", "--steps", "5", "--device", "cpu", "--checkpoints", str(place / "checkpoints")]
    rest = ["--checkpoint-every", "2", "--save", str(place / "rest"), "--out", str(place / "out" / "rest")]
    assert cli.main(["train", str(place / "case.toml"), *arguments, *rest]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"resuming from {place / 'checkpoints' / 'step-00000002'}\nstep 3/5: loss ")
    assert printed.count("resuming from") == 1
    assert losses(place / "out" / "rest" / "metrics.jsonl") == [told["loss"] for told in whole[2:]]
    assert read_manifest(place / "rest").content_hash == read_manifest(place / "whole").content_hash
    apart = run("apart", "apart", num_steps=5, checkpoints=place / "elsewhere")
    assert [told["loss"] for told in apart] == pytest.approx([told["loss"] for told in whole[2:]], rel=1e-6)
    # Nothing is left to do but to write the weights down.
    again = ["--save", str(place / "again"), "--out", str(place / "out" / "again")]
    assert cli.main(["train", str(place / "case.toml"), *arguments, *again]) == 0
    reached = place / "checkpoints" / "step-00000005"
    said = f"no step of 5 was left to take after {reached}; raise --steps\nweights: "
    assert capsys.readouterr().out.startswith(said)
    assert read_manifest(place / "again").content_hash == read_manifest(place / "whole").content_hash


def test_a_damaged_checkpoint_is_named_before_the_one_that_training_goes_on_from(
    place: Path, launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "case.toml").write_text(DRAWN, encoding="utf-8")
    scenario = load_scenario(place / "case.toml")
    parts = {"checkpoints": place / "checkpoints", "checkpoint_every": 1}
    asked = options(scenario, "one", place / "first", num_steps=2, **parts)
    run_training(asked, launcher=launcher, on_line=lambda _: None)
    older, newest = (place / "checkpoints" / f"step-0000000{step}" for step in (1, 2))
    cut = newest / "language.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    size = cut.stat().st_size
    arguments = ["--layout", "one", "--steps", "2", "--device", "cpu", "--checkpoints", str(place / "checkpoints")]
    assert cli.main(["train", str(place / "case.toml"), *arguments, "--out", str(place / "out")]) == 0
    passed_over = f"{cut}: has {size} bytes of {size + 100}; it was cut short; resuming from the checkpoint before it"
    said = capsys.readouterr().out
    assert said.startswith(f"{passed_over}\nresuming from {older}\nstep 2/2: loss ")
    assert f"{passed_over}\nresuming from {older}: 1 step is left\n" in (place / "out" / "rank0.log").read_text()


OWN = """
question = "Are bad samples counted?"
model = "llava-tiny"
global_batch_size = 8
global_micro_batch_size = 4
seq_length = 64
baseline = "one"

[data]
provider = "huggingface"
path = "train.jsonl"
validation = "train[20:]"
processor = "processor"
on_bad_sample = "skip"

[[layout]]
name = "one"
vision = {}
language = {}
"""


def test_bad_samples_that_a_training_skips_are_counted_as_a_run_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ({**row(0), "images": ["nothing.png"]}, {**row(2), "messages": []})
    with write_folder(tmp_path).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in bad)
    (tmp_path / "own.toml").write_text(OWN, encoding="utf-8")
    arguments = ["--layout", "one", "--steps", "4", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert cli.main(["train", str(tmp_path / "own.toml"), *arguments, "--validate-every", "4"]) == 0
    counted = "Bad samples skipped: 2 of train, 2 of validation; the ranks' logs name them.\n"
    assert capsys.readouterr().out.startswith(f"{counted}step 1/4: loss ")
    first = read_metrics(tmp_path / "out")[0]
    assert first == {"step": 0, "skipped_samples": {"train": 2, "validation": 2}, "passed_over": []}
    log = (tmp_path / "out" / "rank0.log").read_text()
    assert log.count("nothing.png does not exist") == log.count("has no answer to learn") == 2


def test_weights_and_checkpoints_of_own_files_are_exported_with_their_processor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path)
    model = json.dumps(str(CONFIGS / "clip_llama.json"))
    (tmp_path / "own.toml").write_text(OWN.replace('"llava-tiny"', model), encoding="utf-8")
    arguments = ["--layout", "one", "--steps", "1", "--device", "cpu", "--out", str(tmp_path / "out")]
    arguments += ["--save", str(tmp_path / "saved"), "--checkpoints", str(tmp_path / "checkpoints")]
    assert cli.main(["train", str(tmp_path / "own.toml"), *arguments]) == 0
    capsys.readouterr()
    drawn = "vision_tower.post_layernorm.weight, vision_tower.post_layernorm.bias"
    said = {}
    for name in ("saved", "checkpoints/step-00000001"):
        exported = tmp_path / "exported" / name
        assert cli.main(["export", str(tmp_path / name), str(exported)]) == 0
        _, *said[name] = capsys.readouterr().out.splitlines()
        loaded: Any = LlavaForConditionalGeneration.from_pretrained(exported, output_loading_info=True)
        model, info = loaded
        assert {key.removeprefix("model.") for key in info["missing_keys"]} == set(drawn.split(", "))
        assert not info["unexpected_keys"]
        assert len(model.model.vision_tower.encoder.layers) == 4
        assert LlavaProcessor.from_pretrained(exported).tokenizer("<image>")["input_ids"]
    missing = f"not stored: {drawn}: from_pretrained draws them and the model does not read them"
    assert said["saved"] == [missing]
    (moments,) = (line for line in said["checkpoints/step-00000001"] if line != missing)
    assert moments.startswith("left out: language.exp_avg.safetensors, ")
    assert moments.endswith(": the state of the optimizer")


def test_a_training_without_a_loss_ends_with_3_and_saves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "case.toml").write_text(f"{DRAWN}\n[training]\nlearning_rate = 1e30\n", encoding="utf-8")
    arguments = ["--layout", "one", "--device", "cpu", "--save", str(place / "saved"), "--out", str(place / "out")]
    arguments += ["--checkpoints", str(place / "checkpoints"), "--checkpoint-every", "1"]
    before = set(place.iterdir())
    assert cli.main(["train", str(place / "case.toml"), *arguments]) == NO_RECORD
    out, err = capsys.readouterr()
    assert "step 1/5: loss 5." in out
    assert "step 2/5: loss not finite" in out
    assert "one: crashed: rank 0 raised TrainingError: the loss of step 2 is nan; lower training.learning_rate" in err
    assert "no weights were saved" in err
    assert set(place.iterdir()) - before == {place / "out", place / "checkpoints"}
    # That of the step before is whole, and no other was begun.
    assert [path.name for path in (place / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_training_that_is_stopped_resumes_with_the_same_command(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "case.toml").write_text(DRAWN, encoding="utf-8")
    command = [sys.executable, "-m", "mimo_bench", "train", str(place / "case.toml"), "--device", "cpu"]
    command += ["--layout", "one", "--steps", "1000000", "--out", str(place / "out")]
    command += ["--checkpoints", str(place / "checkpoints"), "--checkpoint-every", "1"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as training:
        assert training.stdout is not None
        # The checkpoint of a step is there before the third after it begins.
        while not training.stdout.readline().startswith("step 4/"):
            assert training.poll() is None, "ended before its fourth step"
        training.send_signal(signal.SIGINT)
        _, err = training.communicate(timeout=60)
    assert training.returncode == 130
    newest = saved_in(place / "checkpoints")[0]
    assert err == f"mimo-bench: stopped: to resume from {newest}, give the same command\n"
    num_steps = int(newest.name.removeprefix("step-")) + 1
    again = [num if num != "1000000" else str(num_steps) for num in command[3:]]
    assert cli.main(again) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"resuming from {newest}"
    assert [line.split(":")[0] for line in lines[1:]][:1] == [f"step {num_steps}/{num_steps}"]
    assert sum(line.startswith("step ") for line in lines) == 1
    assert [line["step"] for line in read_metrics(place / "out")] == [*range(1, num_steps + 1)]
    # The log of another training is left alone.
    text = (place / "case.toml").read_text(encoding="utf-8")
    (place / "case.toml").write_text(f"{text}\n[training]\nlearning_rate = 0.5\n", encoding="utf-8")
    assert cli.main([*again, "--checkpoints", str(place / "others")]) == BAD_INPUT
    assert f"--out: {place}/out: is of another training: training.learning_rate = 0.5" in capsys.readouterr().err


def test_what_is_left_of_a_stopped_training_depends_on_its_checkpoints(place: Path) -> None:
    (place / "case.toml").write_text(DRAWN, encoding="utf-8")
    asked = options(load_scenario(place / "case.toml"), "one", place / "out")
    assert resume_hint(asked).startswith("nothing was saved; --checkpoints DIR --checkpoint-ev")
    asked = asked.model_copy(update={"checkpoints": place / "checkpoints"})
    said = "no checkpoint was saved yet; the same command and --checkpoint-every N begins anew"
    assert resume_hint(asked) == said
    (place / "checkpoints" / "step-00000007").mkdir(parents=True)
    said = f"to resume from {place / 'checkpoints' / 'step-00000007'}, give the same command"
    assert resume_hint(asked) == said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--layout", "aparr"], "--layout: {place}/case.toml: no layout is called 'aparr'; did you mean 'apart'?"),
        (["--layout", "one", "--steps", "0"], "--steps: 0: give a whole number of at least 1"),
        (["--layout", "one", "--save", "{place}"], "--save: {place}: is not empty"),
        (["--layout", "one", "--load", "{place}/theirs"], "--load: {place}/theirs/weights.json: no such file"),
        (
            ["--layout", "one", "--load", "{place}/others"],
            "--load: {place}/others: holds checkpoints; name one of them: the newest is {place}/others/step-00000007",
        ),
        (["--layout", "one", "--checkpoint-every", "5"], "--checkpoint-every: 5: name their directory with --check"),
        (
            ["--layout", "one", "--checkpoints", "{place}/c", "--checkpoint-every", "0"],
            "--checkpoint-every: 0: give at",
        ),
        (["--layout", "one", "--checkpoints", "{place}/case.toml"], "--checkpoints: {place}/case.toml is a file"),
        (
            ["--layout", "one", "--checkpoints", "{place}/others"],
            "--checkpoints: {place}/others/step-00000007: is of another training: data = {{'provider': 'synthetic', ",
        ),
        (["--layout", "one", "--validate-every", "0"], "--validate-every: 0: give at least 1"),
        (["--layout", "one", "--hang-limit", "0"], "--hang-limit: 0.0: give a positive number of seconds"),
        ([], "Missing option '--layout'"),
    ],
)
def test_bad_options_of_train_end_with_2_and_write_nothing(
    arguments: list[str], complaint: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "case.toml").write_text(DRAWN, encoding="utf-8")
    others = CheckpointManifest(num_steps=7, held_fixed={"data": "others.Samples"}, layout={}, files={})
    (place / "others" / "step-00000007").mkdir(parents=True)
    write_json(place / "others" / "step-00000007" / CHECKPOINT, others)
    before = set(place.iterdir())
    told = [argument.format(place=place) for argument in arguments]
    command = ["train", str(place / "case.toml"), "--device", "cpu", "--out", str(place / "out"), *told]
    assert cli.main(command) == BAD_INPUT
    assert complaint.format(place=place) in capsys.readouterr().err
    assert set(place.iterdir()) == before
