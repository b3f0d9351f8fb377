"""The audio encoder is Whisper's: what `transformers` makes of the same weights and clips, ours makes too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers.models.whisper.modeling_whisper import sinusoids as sinusoids_of_whisper

from mimo_bench.data.config import SyntheticData
from mimo_bench.data.prepare import build_dataset
from mimo_bench.launch import Launcher
from mimo_bench.layout.grid import Grid
from mimo_bench.layout.layout import Layout
from mimo_bench.layout.tables import GridTable
from mimo_bench.models import PRESETS, AudioShape
from mimo_bench.models.cost import model_flops
from mimo_bench.models.whisper.module import sinusoids
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.util.errors import LayoutError, ScenarioError
from tests.ranks.trainer_job import run_entry

SHAPE = PRESETS["llava-audio-tiny"]


def scenario(model: str, grids: dict[str, GridTable], data: str = "synthetic") -> Scenario:
    made = Scenario.model_validate(
        {
            "question": "Is audio right?",
            "model": model,
            "data": data,
            "global_batch_size": 4,
            "global_micro_batch_size": 2,
            "seq_length": 48,
            "baseline": "one",
            "layout": [{"name": "one", **{name: grid.model_dump() for name, grid in grids.items()}}],
        }
    )
    made.check()
    return made


ONE = {"vision": GridTable(), "audio": GridTable(), "language": GridTable()}


def test_positions_are_those_of_whisper() -> None:
    torch.testing.assert_close(sinusoids(1500, 1280), sinusoids_of_whisper(1500, 1280), atol=2e-4, rtol=0)
    # Position 1 at the fastest and the slowest of two frequencies, 1 and 1 / 10000.
    assert sinusoids(2, 4)[1].tolist() == pytest.approx([0.8414710, 1e-4, 0.5403023, 1.0])


def test_every_sample_has_a_clip_of_its_own_and_positions_for_it() -> None:
    dataset = build_dataset(SyntheticData(), shape=SHAPE, seq_length=48, seed=0)
    clips = [dataset.encoder_inputs("audio", "train", index) for index in range(20)]
    assert {clip.shape for clip in clips} == {(1, 16, 64)}
    assert len({tuple(clip.flatten().tolist()) for clip in clips}) == 20
    for index in range(20):
        tokens = dataset.text("train", index).tokens
        # 32 positions, four of which make a token, and 4 x 4 patches.
        assert [int((tokens == token).sum()) for token in (254, 255)] == [8, 16]


def test_a_clip_takes_what_its_convolutions_layers_and_projector_take() -> None:
    clip = AudioShape(
        num_mels=3,
        num_positions=4,
        hidden_size=2,
        ffn_hidden_size=5,
        num_layers=1,
        num_attention_heads=1,
        num_stacked=2,
    )
    shape = replace(SHAPE, vision=None, audio=clip, language=replace(SHAPE.language, hidden_size=7))
    # 8 frames of 3 bands through a kernel of 3 to width 2, 8 x 2 x 3 x 3 x 2: 288; frames need no gradient, so twice.
    # 4 positions of width 2 through the second, 4 x 2 x 3 x 2 x 2: 96; a layer, for each position: 4 x 2 x 2 x 2 = 32
    # for attention's projections and 2 x 2 x 2 x 5 = 40 for the MLP, 288 in all; scores and values: 2 x 2 x 16 x 2.
    # 2 tokens, each of two positions side by side: 4 -> 7 -> 7, 2 x 2 x (28 + 49): 308.
    flops = model_flops(shape, num_items={"audio": 1}, num_tokens=0, num_token_pairs=0)
    assert flops == {"audio": 2 * 288 + 3 * (96 + 288 + 128 + 308), "language": 0}


def test_torch_counts_as_many_operations_in_vision_audio_and_language(launcher: Launcher, tmp_path: Path) -> None:
    filled = scenario("llava-audio-tiny", ONE, "synthetic-filled")
    run_entry(launcher, "count_flops", filled, "one", tmp_path)
    counted = json.loads((tmp_path / "rank0.json").read_text())
    assert counted["items"] == {"vision": 4, "audio": 4}
    ours = model_flops(
        SHAPE, num_items=counted["items"], num_tokens=counted["tokens"], num_token_pairs=counted["token_pairs"]
    )
    # torch counts a causal product in full: 4 layers of width 64.
    masked_half = 3 * 4 * (2 * 2 * 64 * counted["token_pairs"]) / 2
    assert counted["flops"] == pytest.approx(sum(ours.values()) + masked_half, rel=5e-3)


def test_every_encoder_of_the_model_is_placed_and_no_other() -> None:
    with pytest.raises(LayoutError, match=r"layout 'one': module 'audio' has no grid"):
        scenario("llava-audio-tiny", {"vision": GridTable(), "language": GridTable()})
    with pytest.raises(LayoutError, match=r"layout 'one': module 'vision' is not in the model"):
        scenario("voxtral-tiny", ONE)


def test_audio_is_split_by_degrees_that_divide_it() -> None:
    with pytest.raises(LayoutError, match=r"audio\.tp = 3 does not divide attention heads \(4\)"):
        SHAPE.check(Layout(modules={"audio": Grid(tp=3), "vision": Grid(dp=3), "language": Grid(dp=3)}))


def test_the_digits_have_nothing_for_audio_and_an_image_and_a_clip_need_room() -> None:
    with pytest.raises(ScenarioError, match=r"data: the digits are images and nothing else"):
        scenario("llava-audio-tiny", ONE, "digits")
    with pytest.raises(ScenarioError, match=r"vision takes 16 and audio takes 8 positions .* use at least 32"):
        SHAPE.check_sequence(31)
