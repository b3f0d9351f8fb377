"""What a sample is, and what supplies samples: functions of split and global sample id, never of the layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from mimo_bench.data.config import Split

CPU = torch.device("cpu")

PAD = 0
"""Fills a sequence behind its last token; never scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """The language side of a sample."""

    tokens: torch.Tensor
    """int64 [length]: prompt with its image tokens, then the answer."""
    is_answer: torch.Tensor
    """bool [length]: the tokens that the loss scores."""


class Dataset(Protocol):
    """Samples by id. The sides are separate so that a rank makes only what its modules read.

    Threads of the loader call it side by side. With an attribute `content_hash`, a text that tells what the samples are
    read from, a checkpoint is gone on from only where it is the same.
    """

    def num_items(self, module: str, split: Split, sample_id: int) -> int:
        """How many items a sample has for the encoder `module`; known without making them."""
        ...

    def encoder_inputs(self, module: str, split: Split, sample_id: int, device: torch.device = CPU) -> torch.Tensor:
        """What the encoder `module` reads of a sample: its items, stacked; the same bits wherever they are made.

        Returns:
            float32 on `device`: `vision` has images, [images, 3, height, width], normalised; `audio` has
                clips, [clips, mel bands, frames]. A sample may have none.
        """
        ...

    def text(self, split: Split, sample_id: int) -> Text:
        """Tokens of the same sample."""
        ...
