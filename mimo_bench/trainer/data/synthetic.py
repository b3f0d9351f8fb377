"""Samples drawn from the seed and the sample id: every image and clip differs, lengths and answers differ in length.

Items that differ show samples that reach the wrong module or row; answers of different length show a loss that is
normalised by a local instead of the global token count.
"""

from __future__ import annotations

import math

import torch

from mimo_bench.model import ModelShape
from mimo_bench.trainer.counter_random import uniform
from mimo_bench.trainer.data.sample import CPU, PAD, Split, Text


class SyntheticDataset:
    """One item of each encoder, a prompt and an answer per sample; about a third of the text is answer."""

    def __init__(self, *, shape: ModelShape, seq_length: int, seed: int, shortest_text: float = 0.5) -> None:
        """Samples for models of `shape`, at most `seq_length` tokens long.

        A text takes between the share `shortest_text` and all of the room behind the items.
        """
        self._shortest_text = shortest_text
        self._shape = shape
        self._seq_length = seq_length
        self._seed = seed

    def encoder_inputs(self, module: str, split: Split, sample_id: int, device: torch.device = CPU) -> torch.Tensor:
        """One item of the module's item shape, in [-1, 1)."""
        shape = self._shape.encoders[module].item_shape
        positions = torch.arange(math.prod(shape), device=device).view(1, *shape)
        return uniform(self._key(split, sample_id, f"{module}.inputs"), positions) * 2 - 1

    def text(self, split: Split, sample_id: int) -> Text:
        """One item of each encoder and their text, of which the last fifth to half is the answer."""
        tokens = self._shape.special_tokens
        items = [torch.full((shape.num_tokens,), tokens[name]) for name, shape in self._shape.encoders.items()]
        room = self._seq_length - self._shape.num_item_tokens
        key = self._key(split, sample_id, "text")
        draws = uniform(key, torch.arange(room + 2))
        length = int(room * (self._shortest_text + (1 - self._shortest_text) * draws[0]))
        num_answer = max(1, int(length * (0.2 + 0.3 * draws[1])))
        # Cubed, so that low tokens are common: a model has something to learn within a few steps.
        words = 1 + (draws[2 : 2 + length] ** 3 * (min(tokens.values()) - 1)).to(torch.int64)
        is_answer = torch.zeros(self._shape.num_item_tokens + length, dtype=torch.bool)
        is_answer[-num_answer:] = True
        assert PAD not in words, "a word would be taken for padding"
        return Text(tokens=torch.cat([*items, words]), is_answer=is_answer)

    def _key(self, split: Split, sample_id: int, part: str) -> str:
        return f"{self._seed}/{split}/{sample_id}/{part}"
