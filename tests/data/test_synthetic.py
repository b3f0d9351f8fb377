"""A synthetic workload distributes items and lengths as it says, by seed and sample id alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from mimo_bench.data.config import SyntheticData
from mimo_bench.data.synthetic import SyntheticDataset
from mimo_bench.models import PRESETS
from mimo_bench.models.kernels.rng import digest

SHAPE = PRESETS["llava-tiny"]
IMAGE = SHAPE.special_tokens["vision"]
SEQ_LENGTH = 96
NUM = 2000


def build(workload: SyntheticData, seed: int = 0) -> SyntheticDataset:
    return SyntheticDataset(workload, shape=SHAPE, seq_length=SEQ_LENGTH, seed=seed)


def test_images_come_as_often_as_their_weights_say() -> None:
    dataset = build(SyntheticData(items_per_sample={"vision": (1.0, 0.0, 3.0, 6.0)}))
    counts = Counter(dataset.num_items("vision", "train", i) for i in range(NUM))
    assert counts.keys() == {0, 2, 3}
    # Standard deviations of a share of 2000 samples: 0.007, 0.010 and 0.011.
    assert counts[0] / NUM == pytest.approx(0.1, abs=0.03)
    assert counts[2] / NUM == pytest.approx(0.3, abs=0.04)
    assert counts[3] / NUM == pytest.approx(0.6, abs=0.05)


def test_text_only_samples_come_as_often_as_their_share_says() -> None:
    dataset = build(SyntheticData(text_only_share=0.25))
    counts = Counter(dataset.num_items("vision", "train", i) for i in range(NUM))
    assert counts.keys() == {0, 1}
    assert counts[0] / NUM == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("text_only_share", [0.0, 0.5])
def test_text_and_images_of_a_sample_agree_on_how_many_there_are(text_only_share: float) -> None:
    workload = SyntheticData(items_per_sample={"vision": (1.0, 1.0, 1.0)}, text_only_share=text_only_share)
    dataset = build(workload)
    for i in range(100):
        count = dataset.num_items("vision", "validation", i)
        assert dataset.encoder_inputs("vision", "validation", i).shape == (count, 3, 16, 16)
        text = dataset.text("validation", i)
        assert int((text.tokens == IMAGE).sum()) == 16 * count
        assert len(text.tokens) <= SEQ_LENGTH
        assert text.is_answer[-1]
        assert not text.is_answer[text.tokens == IMAGE].any()


def test_images_stand_apart_in_the_prompt_so_that_rows_in_the_wrong_place_show() -> None:
    text = build(SyntheticData(items_per_sample={"vision": (0.0, 0.0, 0.0, 1.0)})).text("train", 0)
    is_image = (text.tokens == IMAGE).int()
    starts = int((is_image.diff() == 1).sum()) + int(is_image[0])
    assert (starts, int(is_image.sum())) == (3, 48)


def test_every_image_of_a_sample_differs() -> None:
    images = build(SyntheticData(items_per_sample={"vision": (0.0, 0.0, 1.0)})).encoder_inputs("vision", "train", 0)
    assert not torch.equal(images[0], images[1])


def test_a_length_skew_makes_most_texts_short() -> None:
    def share_of_short(skew: float) -> float:
        dataset = build(SyntheticData(shortest_text=0.0, length_skew=skew))
        return sum(len(dataset.text("train", i).tokens) < (16 + SEQ_LENGTH) // 2 for i in range(500)) / 500

    # A uniform draw to the fourth power is below one half in 0.84 of all cases.
    assert share_of_short(1.0) == pytest.approx(0.5, abs=0.08)
    assert share_of_short(4.0) == pytest.approx(0.84, abs=0.06)


def test_one_image_each_draws_what_it_drew_before_there_were_workloads() -> None:
    text = build(SyntheticData()).text("train", 7)
    assert (len(text.tokens), int(text.is_answer.sum()), digest(text.tokens)) == (73, 14, "81c31090b48c5d1a")
    assert digest(build(SyntheticData()).encoder_inputs("vision", "train", 7)) == "13d49bde56411a96"


def test_a_sample_may_have_images_and_clips_and_long_audio_is_many_clips() -> None:
    shape = PRESETS["llava-audio-tiny"]
    workload = SyntheticData(items_per_sample={"audio": (0.0, 1.0, 0.0, 0.0, 1.0)}, text_only_share=0.2)
    dataset = SyntheticDataset(workload, shape=shape, seq_length=96, seed=0)
    seen = set()
    for i in range(60):
        counts = tuple(dataset.num_items(module, "train", i) for module in ("vision", "audio"))
        tokens = dataset.text("train", i).tokens
        found = [int((tokens == shape.special_tokens[module]).sum()) for module in ("vision", "audio")]
        assert found == [16 * counts[0], 8 * counts[1]]
        assert dataset.encoder_inputs("audio", "train", i).shape == (counts[1], 16, 64)
        seen.add(counts)
    assert seen == {(0, 0), (1, 1), (1, 4)}
