"""Dataset protocol, checks of the samples that a dataset gives, and the order in which rows are read.

Samples are functions of split and global sample id, never of the layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch

from mimo_bench.data.config import Split
from mimo_bench.models import uniform
from mimo_bench.util import DataError

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

    Threads of the loader call it side by side. With an attribute `content_hash`, a digest of what samples are read
    from, a checkpoint is resumed only if it is the same.
    """

    def num_items(self, module: str, split: Split, sample_id: int) -> int:
        """Return the number of items of a sample for the encoder `module`, without making them."""
        ...

    def encoder_inputs(self, module: str, split: Split, sample_id: int, device: torch.device = CPU) -> torch.Tensor:
        """Return the items of a sample for the encoder `module`, stacked; the same bits on every device.

        Returns:
            float32 on `device`: `vision` has images, [images, 3, height, width], normalised; `audio` has
                clips, [clips, mel bands, frames]. A sample may have none.
        """
        ...

    def text(self, split: Split, sample_id: int) -> Text:
        """Tokens of the same sample."""
        ...


def check_text(text: Text, *, sample: str, seq_length: int, vocab_size: int) -> None:
    """Refuse the tokens of a sample that do not fit, and answers that are not of these tokens.

    Raises:
        DataError: naming the `sample`.
    """
    tokens, is_answer = text.tokens, text.is_answer
    if tokens.dtype != torch.int64 or tokens.ndim != 1:
        raise DataError(f"{sample}: tokens are {_said(tokens)}; give int64 [length]")
    if is_answer.dtype != torch.bool or is_answer.shape != tokens.shape:
        raise DataError(f"{sample}: is_answer is {_said(is_answer)}; give bool [{len(tokens)}], as many as tokens")
    if not 0 < len(tokens) <= seq_length:
        raise DataError(f"{sample}: its text has {len(tokens)} tokens; give 1 to seq_length = {seq_length}")
    lowest, highest = (int(end) for end in tokens.aminmax())
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise DataError(f"{sample}: its text holds token {wrong}; the model's vocabulary is 0 to {vocab_size - 1}")


def check_items(items: torch.Tensor, *, sample: str, module: str, num_items: int, item_shape: tuple[int, ...]) -> None:
    """Refuse what an encoder cannot read, and another number of items than the sample has.

    Raises:
        DataError: naming the `sample`.
    """
    if items.shape != (num_items, *item_shape) or not items.is_floating_point():
        wanted = ", ".join(map(str, (num_items, *item_shape)))
        raise DataError(
            f"{sample}: encoder_inputs for {module} are {_said(items)}, and num_items is {num_items}; give float32 "
            f"[{wanted}]"
        )


def _said(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


@lru_cache(maxsize=4)  # a batch may straddle two epochs
def shuffled(key: str, length: int) -> list[int]:
    """A permutation of `length` numbers; stable sorting, so that equal draws cannot make it depend on the machine."""
    order: list[int] = uniform(key, torch.arange(length)).argsort(stable=True).tolist()
    return order
