"""Handwritten digits as image, question and answer: a task that a small model learns on CPU ranks within a minute.

The 1797 images of 8 x 8 pixels that ship with scikit-learn. Unlike synthetic samples they can be learnt, so accuracy on
held-out images shows that a layout trains, not only that it agrees. Images of one writer are in every split.

    validation    359 images: 4, 9, 14, ... of the file
    test          179 images: 8, 18, 28, ... of the file
    train        1259 images: the rest

Which image is held out does not depend on the seed, so that runs of any seed can be compared.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from mimo_bench.data.config import Split
from mimo_bench.data.dataset import CPU, PAD, Text, shuffled
from mimo_bench.models import ModelShape
from mimo_bench.util import ScenarioError

_HELD_OUT: dict[Split, tuple[int, int]] = {"validation": (4, 5), "test": (8, 10)}
"""The first image of the split, and the images of the file from one of its own to the next."""

_FILE = Path("datasets", "data", "digits.csv.gz")
_SIDE = 8
_MEAN, _DEVIATION = 4.889, 6.023
"""Of all pixels of the training images, which run from 0 to 16. A mean of zero lets the model learn sooner."""
_QUESTION = (1, 2, 3)
"""Three words, the same for every image: "which digit is"."""
_FIRST_DIGIT = 10
"""The token of the answer "0"; those of 1 to 9 follow it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Digits:
    images: torch.Tensor
    """float32 [1797, 8, 8], of mean 0 and deviation 1."""
    labels: torch.Tensor
    """int64 [1797]."""


class DigitsDataset:
    """One image, a fixed question and a one-token answer per sample.

    Training ids run through the training images epoch by epoch, each in an order of its own that the seed decides.
    Held-out ids run through their images in the order of the file, from the start again after the last.
    """

    def __init__(self, *, shape: ModelShape, seq_length: int, seed: int) -> None:
        """Samples for models of `shape`; nothing is read before the first sample.

        Raises:
            ScenarioError: the vocabulary or the sequence is too small.
        """
        encoder = shape.encoders["vision"]
        self._image_size = encoder.item_shape[-1]
        image_token = shape.special_tokens["vision"]
        self._image_tokens = torch.full((encoder.num_tokens,), image_token)
        self._seed = seed
        if (last := _FIRST_DIGIT + 9) >= shape.language.vocab_size or (PAD < image_token <= last):
            raise ScenarioError(
                f"data: the digits use tokens 1 to {last} of a vocabulary of {shape.language.vocab_size}, in which "
                f"{image_token} is the image token; choose a model with room for them"
            )
        if seq_length < (length := encoder.num_tokens + len(_QUESTION) + 1):
            raise ScenarioError(f"seq_length = {seq_length}: a digit sample has {length} tokens; use at least {length}")

    def num_items(self, module: str, split: Split, sample_id: int) -> int:
        """One image, and nothing for any other encoder."""
        return int(module == "vision")

    def encoder_inputs(self, module: str, split: Split, sample_id: int, device: torch.device = CPU) -> torch.Tensor:
        """float32 [1, 3, height, width], normalised: the grey image enlarged to the model's size, in three channels."""
        image = _read().images[self.image_index(split, sample_id)]
        enlarged = torch.nn.functional.interpolate(image[None, None], size=self._image_size, mode="nearest-exact")
        return enlarged.expand(-1, 3, -1, -1).contiguous().to(device)

    def text(self, split: Split, sample_id: int) -> Text:
        """Image, question, answer; no end token, which is easily learnt and would flatter the answer accuracy."""
        answer = _FIRST_DIGIT + int(_read().labels[self.image_index(split, sample_id)])
        tokens = torch.cat([self._image_tokens, torch.tensor([*_QUESTION, answer])])
        is_answer = torch.zeros(len(tokens), dtype=torch.bool)
        is_answer[-1] = True
        return Text(tokens=tokens, is_answer=is_answer)

    def image_index(self, split: Split, sample_id: int) -> int:
        """Which image of the file a sample shows, from 0."""
        indices = _indices(split, len(_read().labels))
        epoch, position = divmod(sample_id, len(indices))
        if split == "train":
            position = shuffled(f"{self._seed}/digits/{epoch}", len(indices))[position]
        return indices[position]


@cache
def _indices(split: Split, num_images: int) -> tuple[int, ...]:
    held_out = {name: range(first, num_images, every) for name, (first, every) in _HELD_OUT.items()}
    if split in held_out:
        return tuple(held_out[split])
    return tuple(index for index in range(num_images) if not any(index in part for part in held_out.values()))


@cache
def _read() -> _Digits:
    """All images, read once per process.

    Its file is read directly: importing scikit-learn costs every rank seconds, reading takes 50 ms.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        # `check` has refused this already; a trainer driven without a scenario comes here.
        raise ScenarioError("data: the digits ship with scikit-learn, which is missing; pip install scikit-learn")
    path = Path(package.submodule_search_locations[0]) / _FILE
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            values = torch.tensor([[float(value) for value in line.split(",")] for line in file])
    except FileNotFoundError:
        raise ScenarioError(f"data: {path} is missing; pip install --force-reinstall scikit-learn") from None
    return _Digits(
        images=(values[:, :-1].reshape(-1, _SIDE, _SIDE) - _MEAN) / _DEVIATION, labels=values[:, -1].to(torch.int64)
    )
