"""Samples are a function of seed, split and id."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from sklearn.datasets import load_digits

from mimo_bench.data import config as data_section
from mimo_bench.data import digits
from mimo_bench.data.config import NAMED, Data, DigitsData, Split
from mimo_bench.data.dataset import PAD, Dataset, Text, shuffled
from mimo_bench.data.digits import DigitsDataset
from mimo_bench.data.prepare import build_dataset
from mimo_bench.models import PRESETS
from mimo_bench.report.check.data import notes
from mimo_bench.scenario import scenario
from mimo_bench.scenario.load import load_scenario
from mimo_bench.trainer.loader import collate
from mimo_bench.util.errors import ScenarioError

SHAPE = PRESETS["llava-tiny"]
IMAGE = SHAPE.special_tokens["vision"]
NUM_PATCHES = 16  # (16 / 4) ** 2
SEQ_LENGTH = 32
DIGITS_SCENARIO = Path(__file__).parents[2] / "scenarios" / "digits.toml"
NUM_DIGITS: dict[Split, int] = {"train": 1259, "validation": 359, "test": 179}  # of 1797: every 5th, of 10 another one
SPLITS = tuple(NUM_DIGITS)
TRAINING = [index for index in range(1797) if index % 5 != 4 and index % 10 != 8]


def build(name: str, seed: int = 0, *, seq_length: int = SEQ_LENGTH) -> Dataset:
    return build_dataset(TypeAdapter(Data).validate_python(name), shape=SHAPE, seq_length=seq_length, seed=seed)


each_dataset = pytest.mark.parametrize("name", NAMED)
each_split = pytest.mark.parametrize("split", SPLITS)


# Any dataset


@each_dataset
@each_split
def test_a_sample_is_the_same_whoever_reads_it_and_whatever_was_read_before(name: str, split: Split) -> None:
    forwards, backwards = build(name), build(name)
    there = [(forwards.encoder_inputs("vision", split, i), forwards.text(split, i)) for i in range(8)]
    back = [(backwards.encoder_inputs("vision", split, i), backwards.text(split, i)) for i in reversed(range(8))]
    for (pixels, text), (same_pixels, same_text) in zip(there, reversed(back), strict=True):
        assert torch.equal(pixels, same_pixels)
        assert torch.equal(text.tokens, same_text.tokens)
        assert torch.equal(text.is_answer, same_text.is_answer)


@each_dataset
def test_another_seed_draws_other_training_samples_and_zero_is_a_seed(name: str) -> None:
    drawn = {
        tuple(hash_of(build(name, seed).encoder_inputs("vision", "train", i)) for i in range(8)) for seed in (0, 1, 2)
    }
    assert len(drawn) == 3


@each_dataset
@each_split
def test_every_sample_has_an_image_of_its_own(name: str, split: Split) -> None:
    dataset, count = build(name), min(300, NUM_DIGITS[split])
    assert len({hash_of(dataset.encoder_inputs("vision", split, i)) for i in range(count)}) == count


@each_dataset
def test_no_image_is_in_two_splits(name: str) -> None:
    dataset = build(name)
    seen = [
        hash_of(dataset.encoder_inputs("vision", split, i)) for split, count in NUM_DIGITS.items() for i in range(count)
    ]
    assert len(set(seen)) == 1797


@each_dataset
@each_split
@pytest.mark.parametrize("seq_length", [24, 32, 64])
def test_every_sample_fits_and_ends_in_an_answer(name: str, split: Split, seq_length: int) -> None:
    dataset = build(name, seq_length=seq_length)
    for i in range(100):
        text = dataset.text(split, i)
        assert text.tokens.dtype == torch.int64
        assert text.tokens.shape == text.is_answer.shape
        assert len(text.tokens) <= seq_length
        assert int((text.tokens == IMAGE).sum()) == NUM_PATCHES
        assert PAD not in text.tokens
        assert int(text.tokens.max()) < SHAPE.language.vocab_size
        assert text.is_answer[-1]
        assert not text.is_answer[text.tokens == IMAGE].any()
        pixels = dataset.encoder_inputs("vision", split, i)
        assert pixels.shape == (1, 3, 16, 16)
        assert pixels.dtype == torch.float32
        assert -1.0 <= float(pixels.min()) < float(pixels.max()) < 2.0


# Synthetic samples


def test_synthetic_answers_differ_in_length_so_that_replicas_score_different_counts() -> None:
    dataset = build("synthetic")
    texts = [dataset.text("train", i) for i in range(50)]
    assert len({len(text.tokens) for text in texts}) > 4
    assert len({int(text.is_answer.sum()) for text in texts}) > 2


# Digits


def test_the_digits_are_those_that_scikit_learn_loads() -> None:
    bunch = load_digits()
    read = digits._read()
    torch.testing.assert_close(read.images, torch.from_numpy((bunch.images - 4.889) / 6.023).float())
    assert torch.equal(read.labels, torch.from_numpy(bunch.target))


def test_training_pixels_have_mean_zero_and_deviation_one() -> None:
    training = digits._read().images[TRAINING]
    assert float(training.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(training.std()) == pytest.approx(1.0, abs=1e-4)


def test_the_first_held_out_digit_is_a_four_and_its_answer_says_so() -> None:
    dataset = build("digits")  # the file starts 0 1 2 3 4, and every fifth is held out
    text = dataset.text("validation", 0)
    assert text.tokens.tolist() == [IMAGE] * NUM_PATCHES + [1, 2, 3] + [14]
    assert text.is_answer.tolist() == [False] * (NUM_PATCHES + 3) + [True]


def test_check_says_where_held_out_digits_are_gone_through_more_than_once() -> None:
    assert {split: DigitsData().num_samples(split) for split in SPLITS} == NUM_DIGITS
    learning = load_scenario(DIGITS_SCENARIO)
    assert list(notes(learning)) == []  # 5 x 64 of the 359 images
    longer = learning.model_copy(update={"evaluation": scenario.Evaluation(num_batches=6)})
    assert list(notes(longer)) == [
        "validation has 359 samples and is gone through 1.07 times: evaluation.num_batches = 6 takes 384"
    ]


def test_every_pixel_of_a_digit_becomes_a_square_in_three_equal_channels() -> None:
    small = digits._read().images[4]
    pixels = build("digits").encoder_inputs("vision", "validation", 0)[0]
    assert torch.equal(pixels, small.repeat_interleave(2, 0).repeat_interleave(2, 1).expand(3, -1, -1))


def test_training_images_come_in_the_order_that_the_declared_seed_draws_and_zero_is_a_seed() -> None:
    for seed in (0, 7):
        dataset = DigitsDataset(shape=SHAPE, seq_length=SEQ_LENGTH, seed=seed)
        order = shuffled(f"{seed}/digits/0", len(TRAINING))
        assert [dataset.image_index("train", i) for i in range(1259)] == [TRAINING[place] for place in order]


def test_an_epoch_shows_every_training_image_once_in_an_order_of_its_own() -> None:
    dataset = DigitsDataset(shape=SHAPE, seq_length=SEQ_LENGTH, seed=0)
    epochs = [[dataset.image_index("train", epoch * 1259 + i) for i in range(1259)] for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [TRAINING] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize(
    ("split", "expected"), [("validation", [*range(4, 1797, 5), 4]), ("test", [*range(8, 1797, 10), 8])]
)
def test_the_same_digits_are_held_out_under_every_seed_and_they_come_in_the_order_of_the_file(
    split: Split, expected: list[int]
) -> None:
    for seed in (0, 1):
        dataset = DigitsDataset(shape=SHAPE, seq_length=SEQ_LENGTH, seed=seed)
        assert [dataset.image_index(split, i) for i in range(NUM_DIGITS[split] + 1)] == expected


def test_a_model_without_room_for_the_digits_is_refused() -> None:
    small = replace(SHAPE, language=replace(SHAPE.language, vocab_size=16, image_token_id=15))
    with pytest.raises(ScenarioError, match=r"the digits use tokens 1 to 19 of a vocabulary of 16"):
        DigitsDataset(shape=small, seq_length=SEQ_LENGTH, seed=0)
    with pytest.raises(ScenarioError, match=r"seq_length = 19: a digit sample has 20 tokens; use at least 20"):
        DigitsDataset(shape=SHAPE, seq_length=19, seed=0)


@pytest.fixture
def unread() -> Iterator[None]:
    """The file as yet unread, and nothing left behind of what a test made of it."""
    digits._read.cache_clear()
    yield
    digits._read.cache_clear()


@pytest.mark.usefixtures("unread")
def test_missing_digits_are_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = build("digits")
    monkeypatch.setattr(digits, "find_spec", lambda _: None)
    with pytest.raises(ScenarioError, match=r"ship with scikit-learn, which is missing; pip install scikit-learn"):
        dataset.encoder_inputs("vision", "train", 0)


def test_missing_digits_are_refused_before_any_rank_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_section, "find_spec", lambda _: None)
    with pytest.raises(ScenarioError, match=r"digits\.toml: data: the digits ship with scikit-learn"):
        load_scenario(DIGITS_SCENARIO)
    monkeypatch.undo()
    assert load_scenario(DIGITS_SCENARIO).data == DigitsData()


# Collate


def test_labels_are_the_next_tokens_and_only_answers_are_scored() -> None:
    # In the second text the token that pads, 0, is also a word of the prompt and the last word of the answer.
    texts = [
        Text(tokens=torch.tensor([255, 255, 7, 8, 9]), is_answer=torch.tensor([0, 0, 0, 1, 1], dtype=torch.bool)),
        Text(tokens=torch.tensor([255, 0, 5, 0]), is_answer=torch.tensor([0, 0, 1, 1], dtype=torch.bool)),
    ]
    columns = {name: column.tolist() for name, column in collate(texts, seq_length=6).items() if column is not None}
    assert columns == {
        "input_ids": [[255, 255, 7, 8, 9, 0], [255, 0, 5, 0, 0, 0]],
        "position_ids": [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]],
        "labels": [[255, 7, 8, 9, 0, 0], [0, 5, 0, 0, 0, 0]],
        "loss_mask": [[0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0]],
    }


def test_collate_gives_every_column_that_it_documents_in_the_documented_shape_and_dtype() -> None:
    columns = collate([build("synthetic").text("train", i) for i in range(3)], seq_length=SEQ_LENGTH)
    contract = {"input_ids": "int64", "position_ids": "int64", "labels": "int64", "loss_mask": "float32"}
    assert {name: str(column.dtype) for name, column in columns.items() if column is not None} == {
        name: f"torch.{dtype}" for name, dtype in contract.items()
    }
    assert {tuple(column.shape) for column in columns.values() if column is not None} == {(3, SEQ_LENGTH)}
    documented = " ".join((collate.__doc__ or "").partition("Returns:")[2].split())
    assert documented == "`input_ids`, `position_ids` and `labels` as int64 [b, s], `loss_mask` as float32 [b, s]."


@each_dataset
def test_what_is_scored_is_the_answer_and_nothing_else(name: str) -> None:
    dataset = build(name)
    texts = [dataset.text("train", i) for i in range(16)]
    columns = collate(texts, seq_length=SEQ_LENGTH)
    labels, loss_mask = columns["labels"], columns["loss_mask"]
    assert labels is not None
    assert loss_mask is not None
    for row, text in enumerate(texts):
        assert torch.equal(labels[row][loss_mask[row] == 1], text.tokens[text.is_answer])
    assert set(loss_mask.unique().tolist()) == {0.0, 1.0}


def hash_of(tensor: torch.Tensor) -> int:
    """Equal for equal content; what differs collides by chance once in 2**61."""
    return hash(tensor.numpy().tobytes())
