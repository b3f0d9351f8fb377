"""Faults of data: modules or replicas read wrong samples, pixels or answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch

from mimo_bench.data import Split, Text
from mimo_bench.layout import LANGUAGE
from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext, replace_attribute


@fault(caught_by="static")
def encoder_fed_other_samples(context: FaultContext) -> None:
    """The encoder's loader is one sample ahead of the language model's."""
    right = context.trainer.loader.plan.sample_ids

    def ahead(**where: Any) -> range:
        ids = right(**where)
        return ids if where["module"] == LANGUAGE else range(ids.start + 1, ids.stop + 1)

    _deal_out(context, ahead)


@fault(caught_by="static")
def encoder_reads_other_pixels(context: FaultContext) -> None:
    """Sample ids are right, and encoders read the items of the next sample that has as many."""
    dataset = context.trainer.loader.dataset

    def behind(module: str, split: Split, sample_id: int, device: torch.device) -> torch.Tensor:
        num_items = dataset.num_items(module, split, sample_id)
        others = (other for other in count(sample_id + 1) if dataset.num_items(module, split, other) == num_items)
        return dataset.encoder_inputs(module, split, next(others), device)

    _replace_dataset(context, encoder_inputs=behind)


@fault(caught_by="static")
def loss_mask_shifted(context: FaultContext) -> None:
    """The loss scores each answer one position too early: labels are shifted twice."""
    dataset = context.trainer.loader.dataset

    def text(split: Split, sample_id: int) -> Text:
        right = dataset.text(split, sample_id)
        return replace(right, is_answer=right.is_answer.roll(-1))

    _replace_dataset(context, text=text)


@fault(
    caught_by="static",
    # With one sample each, replicas that start one sample apart never read the same one.
    shows_in=lambda site: any(
        grid.dp > 1 and site.plan.micro_batch_size[name] > 1 for name, grid in site.layout.modules.items()
    ),
)
def shards_overlap(context: FaultContext) -> None:
    """Each replica reads one stream of samples from an offset of its own rank, so neighbours read the same ones."""
    right = context.trainer.loader.plan.sample_ids

    def overlapping(*, dp_rank: int, **where: Any) -> range:
        first = right(dp_rank=0, **where)
        return range(first.start + dp_rank, first.stop + dp_rank)

    _deal_out(context, overlapping)


def _deal_out(context: FaultContext, sample_ids: Callable[..., range]) -> None:
    """Assign samples to replicas by another rule."""
    loader = context.trainer.loader
    plan = SimpleNamespace(num_micro_batches=loader.plan.num_micro_batches, sample_ids=sample_ids)
    replace_attribute(context, loader, "plan", plan)


def _replace_dataset(context: FaultContext, **changes: Any) -> None:
    """Replace methods of the dataset by `changes`."""
    dataset = context.trainer.loader.dataset
    methods = {name: getattr(dataset, name) for name in ("num_items", "encoder_inputs", "text")}
    replace_attribute(context, context.trainer.loader, "dataset", SimpleNamespace(**{**methods, **changes}))
