"""What a sample is, and what supplies samples: functions of split and global sample id, never of the layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

Split = Literal["train", "validation"]

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
    """Samples by id. The two sides are separate so that only ranks that need pixels make them."""

    def pixels(self, split: Split, sample_id: int, device: torch.device = CPU) -> torch.Tensor:
        """float32 [images, 3, height, width], normalised, on `device`; the same bits wherever they are made."""
        ...

    def text(self, split: Split, sample_id: int) -> Text:
        """Tokens of the same sample."""
        ...
