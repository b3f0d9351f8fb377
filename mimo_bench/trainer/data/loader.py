"""Deals each module of a rank its part of every micro-batch, by global sample id: one rule for all modules.

Encoders and language model read the same ids in the same order, so an encoder can never see other samples than the
language model does, whatever the degrees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mimo_bench.layout import LANGUAGE, BatchPlan
from mimo_bench.trainer.data.sample import PAD, Dataset, Split, Text
from mimo_bench.trainer.topology import Topology


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """What one rank feeds into its modules for one micro-batch; None for what its stages do not need."""

    encoder_inputs: dict[str, torch.Tensor]
    """By encoder, for those whose first stage this rank holds: the items of its replica, such as images
    [images, 3, height, width], sample by sample."""
    items_per_sample: dict[str, tuple[int, ...]]
    """For the same encoders: how many of those items each sample has."""
    input_ids: torch.Tensor | None
    """int64 [b, s]; first and last language stages only, like the rest."""
    position_ids: torch.Tensor | None
    """int64 [b, s]."""
    labels: torch.Tensor | None
    """int64 [b, s]: the next token at each position."""
    loss_mask: torch.Tensor | None
    """float32 [b, s]: 1 where the next token is part of an answer, so labels are scored there and nowhere else."""
    sample_ids: dict[str, range]
    """Global sample ids by hosted module."""
    num_tokens: int
    """Language positions of this replica that are not padding."""
    num_token_pairs: int
    """Sum over samples of the squared number of those positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loader:
    """The micro-batches of one rank; nothing is kept between steps, so any step can be read first."""

    dataset: Dataset
    plan: BatchPlan
    topology: Topology
    seq_length: int
    input_dtype: torch.dtype
    """Of what encoders read."""
    device: torch.device

    def global_batch(self, split: Split, step: int) -> list[MicroBatch]:
        """This rank's part of the global batch of one step; steps count from 0."""
        return [self._micro_batch(split, step, index) for index in range(self.plan.num_micro_batches)]

    def batches(self, split: Split, start: int = 0) -> Iterator[list[MicroBatch]]:
        """Global batches from step `start` on, without end."""
        step = start
        while True:
            yield self.global_batch(split, step)
            step += 1

    def _micro_batch(self, split: Split, step: int, index: int) -> MicroBatch:
        ids = {
            module: self.plan.sample_ids(
                step=step,
                micro_batch=index,
                module=module,
                dp_rank=self.topology.layout.modules[module].coordinate(self.topology.rank).dp,
            )
            for module in self.topology.modules
        }
        items = {
            module: [self.dataset.encoder_inputs(module, split, sample_id, self.device) for sample_id in ids[module]]
            for module in self.topology.layout.encoders
            if self.topology.is_first_stage(module)
        }
        texts = []
        if self.topology.is_first_stage(LANGUAGE) or self.topology.is_last_stage(LANGUAGE):
            texts = [self.dataset.text(split, sample_id) for sample_id in ids[LANGUAGE]]
        columns = collate(texts, seq_length=self.seq_length) if texts else dict.fromkeys(_COLUMNS)
        return MicroBatch(
            encoder_inputs={module: torch.cat(parts).to(self.input_dtype) for module, parts in items.items()},
            items_per_sample={module: tuple(len(part) for part in parts) for module, parts in items.items()},
            sample_ids=ids,
            num_tokens=sum(len(text.tokens) for text in texts),
            num_token_pairs=sum(len(text.tokens) ** 2 for text in texts),
            **{name: None if column is None else column.to(self.device) for name, column in columns.items()},
        )


_COLUMNS = ("input_ids", "position_ids", "labels", "loss_mask")


def collate(texts: list[Text], *, seq_length: int) -> dict[str, torch.Tensor | None]:
    """Pad texts on the right and shift labels by one.

    Args:
        texts: the samples of one replica's micro-batch.
        seq_length: positions per sample.

    Returns:
        `input_ids`, `position_ids` and `labels` as int64 [b, s], `loss_mask` as float32 [b, s].
    """
    input_ids = torch.full((len(texts), seq_length), PAD, dtype=torch.int64)
    labels = torch.full_like(input_ids, PAD)
    loss_mask = torch.zeros(len(texts), seq_length)
    for row, text in enumerate(texts):
        length = len(text.tokens)
        assert length <= seq_length, f"a sample of {length} tokens does not fit into {seq_length}"
        input_ids[row, :length] = text.tokens
        labels[row, : length - 1] = text.tokens[1:]
        # A mask of its own, not `labels != PAD`: a tokenizer may pad with a token that also ends answers.
        loss_mask[row, : length - 1] = text.is_answer[1:].float()
    position_ids = torch.arange(seq_length).expand(len(texts), -1).contiguous()
    return {"input_ids": input_ids, "position_ids": position_ids, "labels": labels, "loss_mask": loss_mask}
