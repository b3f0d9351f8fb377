"""Loader of one rank: each module's part of every micro-batch, by global sample id.

Encoders and language model read the same ids in the same order, so an encoder can never see other samples than the
language model does, whatever the degrees.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from megatron.core.models.mimo.model.base import MimoModel

from mimo_bench.data import CPU, PAD, Dataset, Split, Text, check_items, check_text
from mimo_bench.layout import LANGUAGE, BatchPlan
from mimo_bench.models import ModelShape
from mimo_bench.scenario import LoaderTable
from mimo_bench.trainer.prefetch import LoaderWatch, prefetched
from mimo_bench.trainer.topology import Topology
from mimo_bench.util import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Inputs of one rank's modules for one micro-batch; None for those that its stages do not read."""

    encoder_inputs: dict[str, torch.Tensor]
    """By encoder, for those whose first stage this rank holds: the items of its replica, such as images
    [images, 3, height, width], sample by sample; one blank item for a replica whose samples have none, as a rank whose
    encoder does not run would neither meet its peers on the bridge nor finish its gradients."""
    items_per_sample: dict[str, tuple[int, ...]]
    """By encoder that this rank holds a stage of: number of items of each sample; a blank item belongs to none."""
    rows_per_sample: dict[str, tuple[int, ...]]
    """By encoder, on ranks that read text: how many positions of each text its rows fill."""
    places: dict[str, torch.Tensor]
    """By encoder, and for `TEXT`, on ranks that read text: positions of its rows, sample by sample, as int64
    [rows of all samples]; `position * b + sample`, the order of the language model's [s, b, h]."""
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

    def pinned(self) -> MicroBatch:
        """Return a copy in pinned memory, from which a GPU copies asynchronously."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> MicroBatch:
        """Return a copy on `device`; from pinned memory without waiting."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> MicroBatch:
        columns = ((name, getattr(self, name)) for name in _COLUMNS)
        changed: dict[str, Any] = {name: None if column is None else change(column) for name, column in columns}
        for name in ("encoder_inputs", "places"):
            changed[name] = {module: change(tensor) for module, tensor in getattr(self, name).items()}
        return replace(self, **changed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loader:
    """Micro-batches of one rank. Nothing is kept between steps, so a resumed run reads any step first."""

    dataset: Dataset
    plan: BatchPlan
    topology: Topology
    shape: ModelShape
    seq_length: int
    input_dtype: torch.dtype
    """Of what encoders read."""
    device: torch.device
    background: LoaderTable = field(default_factory=LoaderTable)

    def global_batch(self, split: Split, step: int) -> list[MicroBatch]:
        """This rank's part of the global batch of one step; steps count from 0."""
        return [self._micro_batch(split, step, index) for index in range(self.plan.num_micro_batches)]

    def batches(
        self, split: Split, *, start: int = 0, stop: int | None = None, watch: LoaderWatch | None = None
    ) -> Generator[list[MicroBatch]]:
        """Global batches from step `start` on, made in the background; close it to end the workers.

        A batch is a function of its step, so the number of steps taken is all that a resumed run has to know.
        With `stop` it ends before that step, and nothing is made of later ones.
        """
        host = replace(self, device=CPU)

        def make(step: int) -> list[MicroBatch]:
            batch = host.global_batch(split, step)
            return [part.pinned() for part in batch] if self.device.type == "cuda" else batch

        made = prefetched(
            make,
            start=start,
            stop=stop,
            num_workers=self.background.num_workers,
            num_ahead=self.background.num_ahead,
            watch=LoaderWatch() if watch is None else watch,
        )
        with closing(made):
            for batch in made:
                yield [part.to(self.device) for part in batch]

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
            module: [self._items(module, split, sample_id) for sample_id in ids[module]]
            for module in self.topology.layout.encoders
            if self.topology.is_first_stage(module)
        }
        texts = []
        if self.topology.is_first_stage(LANGUAGE) or self.topology.is_last_stage(LANGUAGE):
            texts = [self._text(split, sample_id) for sample_id in ids[LANGUAGE]]
        rows = {module: self._rows(module, split, ids[LANGUAGE], texts) for module in self.shape.encoders if texts}
        columns = collate(texts, seq_length=self.seq_length) if texts else dict.fromkeys(_COLUMNS)
        return MicroBatch(
            encoder_inputs={module: self._stacked(module, parts) for module, parts in items.items()},
            items_per_sample={
                module: tuple(self.dataset.num_items(module, split, sample_id) for sample_id in ids[module])
                for module in self.topology.modules
                if module != LANGUAGE
            },
            rows_per_sample=rows,
            places={name: found.to(self.device) for name, found in self._places(columns["input_ids"]).items()},
            sample_ids=ids,
            num_tokens=sum(len(text.tokens) for text in texts),
            num_token_pairs=sum(len(text.tokens) ** 2 for text in texts),
            **{name: None if column is None else column.to(self.device) for name, column in columns.items()},
        )

    def _items(self, module: str, split: Split, sample_id: int) -> torch.Tensor:
        items = self.dataset.encoder_inputs(module, split, sample_id, self.device)
        check_items(
            items,
            sample=_named(split, sample_id),
            module=module,
            num_items=self.dataset.num_items(module, split, sample_id),
            item_shape=self.shape.encoders[module].item_shape,
        )
        return items

    def _text(self, split: Split, sample_id: int) -> Text:
        text = self.dataset.text(split, sample_id)
        vocab_size = self.shape.language.vocab_size
        check_text(text, sample=_named(split, sample_id), seq_length=self.seq_length, vocab_size=vocab_size)
        return text

    def _stacked(self, module: str, items: list[torch.Tensor]) -> torch.Tensor:
        """Concatenate the items of all samples, or make a blank one."""
        stacked = torch.cat(items)
        if not len(stacked):
            stacked = stacked.new_zeros(1, *self.shape.encoders[module].item_shape)
        return stacked.to(self.input_dtype)

    def _places(self, input_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return the positions of each encoder's rows among the tokens [b, s], and those of text."""
        if input_ids is None:
            return {}
        found = {module: input_ids == token for module, token in self.shape.special_tokens.items()}
        found[TEXT] = ~torch.stack(list(found.values())).any(0)
        return {name: places_of(is_there) for name, is_there in found.items()}

    def _rows(self, module: str, split: Split, sample_ids: range, texts: list[Text]) -> tuple[int, ...]:
        """Count the positions of each text that the encoder's rows fill.

        Raises:
            DataError: not as many as the sample's items give.
        """
        token, per_item = self.shape.special_tokens[module], self.shape.encoders[module].num_tokens
        rows = tuple(int((text.tokens == token).sum()) for text in texts)
        for sample_id, found in zip(sample_ids, rows, strict=True):
            num_items = self.dataset.num_items(module, split, sample_id)
            if found != num_items * per_item:
                raise DataError(
                    f"{_named(split, sample_id)}: its text holds {found} tokens {token} for {module}, and its "
                    f"{num_items} items need {num_items * per_item}; write {per_item} for each item"
                )
        return rows


def _named(split: Split, sample_id: int) -> str:
    return f"sample {sample_id} of {split}"


def refuse_other_models(model: object) -> None:
    """Refuse a model whose modules are unknown, as a loader gives all modules the same samples.

    Raises:
        DataError: naming the model's class.
    """
    if not isinstance(model, MimoModel):
        raise DataError(
            f"{type(model).__name__} is no MimoModel; loaders split samples over the modules of a MimoModel only"
        )


TEXT = "text"
"""The modality that no encoder fills, padding included; megatron-core's name for it."""

_COLUMNS = ("input_ids", "position_ids", "labels", "loss_mask")


def places_of(is_there: torch.Tensor) -> torch.Tensor:
    """Return the positions that are marked in [b, s], sample by sample: int64 `position * b + sample`."""
    samples, positions = is_there.nonzero(as_tuple=True)
    return positions * len(is_there) + samples


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
        input_ids[row, :length] = text.tokens
        labels[row, : length - 1] = text.tokens[1:]
        # A mask of its own, not `labels != PAD`: a tokenizer may pad with a token that also ends answers.
        loss_mask[row, : length - 1] = text.is_answer[1:].float()
    position_ids = torch.arange(seq_length).expand(len(texts), -1).contiguous()
    return {"input_ids": input_ids, "position_ids": position_ids, "labels": labels, "loss_mask": loss_mask}
