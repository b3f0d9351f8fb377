"""The selftest's companion scenario: its layouts pass, what only they show is caught, and `transformers` agrees."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mimo_bench.bench.gate.reference import compare_baseline
from mimo_bench.bench.gate.selftest import COMPANION
from mimo_bench.launch import Launcher
from mimo_bench.parity.faults.catalogue import KNOWN, known_faults
from mimo_bench.parity.probes.tensors import stream, write
from mimo_bench.record import ReferenceVerdict
from mimo_bench.scenario.load import load_scenario
from tests.ranks.gate import Gate

SCENARIO = load_scenario(COMPANION)
SLICED_AND_REPLICATED = "colocated-vision-dp4-language-tp2-dp2"

CAUGHT = [
    (
        "encoder-gradient-averaged-over-replicas",
        SLICED_AND_REPLICATED,
        "gradients of vision.* are 0.25 x the baseline's, uniformly: 1 / vision dp 4",
    ),
    ("process-groups-crossed", SLICED_AND_REPLICATED, "data-parallel replicas of language."),
    (
        "shards-overlap",
        SLICED_AND_REPLICATED,
        "vision.inputs reads samples 3 and language.inputs reads none more",
    ),
    (
        "tied-embedding-gradients-not-reduced",
        "vision-pp2--language-pp2",
        "copies on the first and the last stage of language.embedding.word_embeddings.weight hold different gradients",
    ),
    ("uneven-rows-split-evenly", SLICED_AND_REPLICATED, "of the gradients of vision differ"),
]


@pytest.fixture(scope="module")
def gate(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(launcher, SCENARIO, tmp_path_factory.mktemp("companion"))


@pytest.mark.parametrize("layout", [name for name in SCENARIO.names if name != SCENARIO.baseline])
def test_a_layout_without_a_fault_passes(gate: Gate, layout: str) -> None:
    account = gate.judge(layout)
    assert (account.status, account.reason.split(":")[0]) == ("passed", "5 steps agree")


@pytest.mark.parametrize(("fault", "layout", "words"), CAUGHT)
def test_a_fault_is_caught_and_the_reason_says_what_it_is(gate: Gate, fault: str, layout: str, words: str) -> None:
    account = gate.judge(layout, known_faults()[fault])
    assert account.parity is not None
    assert account.parity.failed_check == KNOWN[fault].caught_by
    assert words in account.reason


def test_an_encoder_that_rests_without_images_passes_parity_and_ends_the_layout_as_timed(gate: Gate) -> None:
    layout, fault = "colocated-dp2", known_faults()["encoder-rests-without-images"]
    assert gate.judge(layout, fault).status == "passed"
    assert gate.attempts.run(gate.case(layout), "timing", fault=None).finished
    outcome = gate.attempts.run(gate.case(layout), "timing", fault=fault).outcome
    assert outcome.ended == KNOWN["encoder-rests-without-images"].caught_by
    assert "params have grad available" in outcome.reason


Hold = Callable[..., ReferenceVerdict]


@pytest.fixture(scope="module")
def hold(launcher: Launcher, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Hold:
    """Compare the companion's baseline, or a changed copy of it, with `transformers`."""
    loss = gate.reference.trained.losses[0]
    assert loss is not None

    def against_transformers(baseline: Path = gate.folder / "baseline", *, scale_loss: float = 1.0) -> ReferenceVerdict:
        place = tmp_path_factory.mktemp("oracle")
        return compare_baseline(
            launcher, SCENARIO, loss=scale_loss * loss, baseline=baseline, place=place, device_kind="cpu"
        )

    return against_transformers


def test_the_baseline_is_what_transformers_computes(hold: Hold) -> None:
    held = hold()
    assert held.verdict == "passed", held.reason
    assert held.reason.startswith("loss and 121 gradients are those of transformers in float64")
    assert held.gradient_rel is not None
    # Of the same to the last bit nothing would have been computed.
    assert 0.0 < held.gradient_rel < 1e-5


def test_a_loss_and_a_gradient_that_are_off_by_a_thousandth_are_seen_and_named(
    hold: Hold, gate: Gate, tmp_path: Path
) -> None:
    wrong = Path(shutil.copytree(gate.folder / "baseline", tmp_path / "baseline"))
    file = wrong / "gradients" / "vision.encoder.vit.decoder.layers.1.mlp.linear_fc2.weight.float32"
    write(file, 1.001 * torch.cat(list(stream(file, torch.device("cpu")))))
    held = hold(wrong, scale_loss=1.001)
    assert held.verdict == "failed"
    name = "model.vision_tower.encoder.layers.1.mlp.fc2.weight"
    assert held.reason == f"the loss is off by 0.001 and the gradient of {name} is off by 0.001 of its norm"


def test_a_baseline_that_started_from_other_weights_is_not_held(hold: Hold, gate: Gate, tmp_path: Path) -> None:
    wrong = Path(shutil.copytree(gate.folder / "baseline", tmp_path / "baseline"))
    file = wrong / "fingerprint.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("language.decoder.final_layernorm.weight", "language.decoder.final_norm.weight"))
    held = hold(wrong)
    assert held.verdict == "failed"
    assert "the baseline starts from other weights" in held.reason
