"""Refuses what a dataset gives and the model cannot take: the sample is named before anything trains on it.

A word behind the end of the vocabulary would raise nothing: under tensor parallelism no rank has it, and all embed it
as zeros.
"""

from __future__ import annotations

import torch

from mimo_bench.data.dataset import Text
from mimo_bench.util import DataError


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
