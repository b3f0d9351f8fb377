"""Samples drawn from the seed and the sample id: every image and clip differs, lengths and answers differ in length.

Items that differ show samples that reach the wrong module or row; answers of different length show a loss that is
normalised by a local instead of the global token count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache, partial

import torch

from mimo_bench.data.config import Split, SyntheticData
from mimo_bench.data.dataset import CPU, PAD, Text
from mimo_bench.models import ModelShape, uniform


class SyntheticDataset:
    """Items of each encoder, such as images, in a prompt with an answer; about a third of the text is answer."""

    def __init__(self, workload: SyntheticData, *, shape: ModelShape, seq_length: int, seed: int) -> None:
        """Samples as `workload` distributes them, for models of `shape` and at most `seq_length` tokens long."""
        self._workload = workload
        self._shape = shape
        self._seq_length = seq_length
        self._seed = seed
        # Words are drawn below every special token.
        self._num_words = min(shape.special_tokens.values()) - 1
        # A batch asks for the counts of each of its samples over and over.
        self._num_items = lru_cache(maxsize=1 << 14)(partial(workload.num_items, seed=seed))

    def num_items(self, module: str, split: Split, sample_id: int) -> int:
        """Return the number of items of the sample for the encoder `module`."""
        return self._num_items(module, split=split, sample_id=sample_id)

    def encoder_inputs(self, module: str, split: Split, sample_id: int, device: torch.device = CPU) -> torch.Tensor:
        """Items of the module's item shape, in [-1, 1)."""
        shape = (self.num_items(module, split, sample_id), *self._shape.encoders[module].item_shape)
        positions = torch.arange(math.prod(shape), device=device).view(shape)
        return uniform(self._key(split, sample_id, f"{module}.inputs"), positions) * 2 - 1

    def text(self, split: Split, sample_id: int) -> Text:
        """A prompt with its items, the first of them at its start, and the last fifth to half as the answer."""
        items = [
            torch.full((encoder.num_tokens,), self._shape.special_tokens[module])
            for module, encoder in self._shape.encoders.items()
            for _ in range(self.num_items(module, split, sample_id))
        ]
        words, num_answer = self._words(split, sample_id, room=self._seq_length - sum(map(len, items)))
        prompt = words[: len(words) - num_answer].tensor_split(max(1, len(items)))
        tokens = torch.cat([*_alternate(items, prompt), words[len(words) - num_answer :]])
        is_answer = torch.zeros(len(tokens), dtype=torch.bool)
        is_answer[-num_answer:] = True
        return Text(tokens=tokens, is_answer=is_answer)

    def _words(self, split: Split, sample_id: int, *, room: int) -> tuple[torch.Tensor, int]:
        """Words that fit into `room`, and how many of the last are the answer."""
        draws = uniform(self._key(split, sample_id, "text"), torch.arange(room + 2))
        shortest = self._workload.shortest_text
        share = shortest + (1 - shortest) * draws[0] ** self._workload.length_skew
        length = max(2, int(room * share))
        # Cubed, so that low tokens are common: a model has something to learn within a few steps.
        words = 1 + (draws[2 : 2 + length] ** 3 * self._num_words).to(torch.int64)
        assert PAD not in words, "a word would be taken for padding"
        return words, max(1, int(length * (0.2 + 0.3 * draws[1])))

    def _key(self, split: Split, sample_id: int, part: str) -> str:
        return f"{self._seed}/{split}/{sample_id}/{part}"


def _alternate(items: list[torch.Tensor], prompt: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Alternate items and pieces of the prompt; the whole prompt if there is no item."""
    pieces = list(prompt)
    return [part for pair in zip(items, pieces, strict=True) for part in pair] if items else pieces
