"""First samples of a user's own files as ranks read them, before any rank starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mimo_bench.data.config import HuggingFaceData, Split
from mimo_bench.data.conversations import HuggingFaceDataset
from mimo_bench.models import ModelShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """Samples that were read, in words."""

    num_read: Mapping[Split, int]
    samples: tuple[str, ...]
    """The first good sample of each split: name, counts and text."""
    bad: Mapping[Split, tuple[str, ...]]
    """Reasons why samples cannot be trained on, each with its name."""
    unread: tuple[str, ...]
    """Columns of train that no sample is made from."""
    writes_date: bool
    """True if the chat template writes the date, which is the same in every sample."""
    num_without_end: int
    """Good samples whose last answer ends with its own text, so that the loss scores no end."""


def preview(
    data: HuggingFaceData, *, shape: ModelShape, seq_length: int, seed: int, num_samples: Mapping[Split, int]
) -> Preview:
    """Read the first samples of each split in the order of a training.

    Args:
        data: the files and their processor.
        shape: the model that samples are made for.
        seq_length: as many tokens fit.
        seed: decides the order of rows.
        num_samples: how many to read of each split; fewer if it has fewer rows.

    Raises:
        ScenarioError: the processor cannot be read, or does not belong to the model.
        DataError: a split cannot be opened.
    """
    dataset = HuggingFaceDataset(data, shape=shape, seq_length=seq_length, seed=seed)
    num_read = {split: min(count, dataset.open(split)) for split, count in num_samples.items() if count}
    reasons = {split: [dataset.bad(split, place) for place in range(count)] for split, count in num_read.items()}
    described = {
        split: [dataset.described(split, place) for place, reason in enumerate(found) if reason is None]
        for split, found in reasons.items()
    }
    return Preview(
        num_read=num_read,
        samples=tuple(good[0][0] for good in described.values() if good),
        bad={split: tuple(filter(None, found)) for split, found in reasons.items()},
        unread=tuple(dataset.unread_columns("train")),
        writes_date=dataset.writes_date,
        num_without_end=sum(not ends for good in described.values() for _, ends in good),
    )
