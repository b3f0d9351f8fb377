"""Datasets built and examined before the first step of a run.

Where bad samples are skipped, all ranks must leave out the same ones, in every layout, also those that never open an
image. So the ranks share the work of examining rows in reading order and
exchange what they found: the sample of an id depends on the files alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch.distributed as dist

from mimo_bench.data.config import Data, DigitsData, HuggingFaceData, Split, SyntheticData
from mimo_bench.data.conversations import HuggingFaceDataset
from mimo_bench.data.dataset import Dataset
from mimo_bench.data.digits import DigitsDataset
from mimo_bench.data.synthetic import SyntheticDataset
from mimo_bench.models import ModelShape
from mimo_bench.util import DataError


def build_dataset(data: Data, *, shape: ModelShape, seq_length: int, seed: int) -> Dataset:
    """The samples that a scenario's `data` describes, made for models of `shape`.

    Raises:
        ScenarioError: the model cannot hold them.
    """
    match data:
        case SyntheticData():
            return SyntheticDataset(data, shape=shape, seq_length=seq_length, seed=seed)
        case DigitsData():
            return DigitsDataset(shape=shape, seq_length=seq_length, seed=seed)
        case HuggingFaceData():
            return HuggingFaceDataset(data, shape=shape, seq_length=seq_length, seed=seed)


def prepare(dataset: Dataset, num_samples: Mapping[Split, int]) -> dict[Split, dict[int, str]]:
    """Make sure that the first samples of each split can be read; what was made sure of before costs nothing.

    Collective over the world where bad samples are skipped.

    Returns:
        By split that was looked through, the rows that are left out, and for each which sample it is and what is wrong
        with it.

    Raises:
        DataError: a split cannot be read, or all of its samples are bad.
    """
    if not isinstance(dataset, HuggingFaceDataset):
        return {}
    wanted = {split: count for split, count in num_samples.items() if count}
    for split in wanted:
        dataset.open(split)
    if not dataset.skips_bad_samples:
        return {}
    missing = {split: count for split, count in wanted.items() if dataset.num_kept(split) < count}
    return {split: _leave_out(dataset, split, count) for split, count in missing.items()}


def num_left_out(dataset: Dataset) -> dict[Split, int]:
    """Return the number of samples that `prepare` left out, by split that lacks any."""
    counts = dataset.num_left_out if isinstance(dataset, HuggingFaceDataset) else {}
    return {split: count for split, count in counts.items() if count}


def in_words(skipped: Mapping[Split, Mapping[int, str]]) -> Iterator[str]:
    """Yield the number of samples left out of each split, and a line for each of them."""
    for split, reasons in skipped.items():
        if reasons:
            yield f"bad samples left out of {split}: {len(reasons)}"
            yield from reasons.values()


def _leave_out(dataset: HuggingFaceDataset, split: Split, count: int) -> dict[int, str]:
    """Find the first `count` positions whose rows are good."""
    num_rows = dataset.open(split)
    reasons: dict[int, str | None] = {}
    kept: list[int] = []
    position = 0
    while len(kept) < count:
        block = range(position, position + count - len(kept))
        reasons |= _examine(dataset, split, block, known=reasons)
        kept += [place for place in block if reasons[dataset.row_at(split, place)] is None]
        position = block.stop
        if position >= num_rows and not kept:
            first = next(reason for reason in reasons.values() if reason)
            raise DataError(f"every sample is bad, {num_rows} of them; the first: {first}")
    left_out = {row: reason for row, reason in sorted(reasons.items()) if reason}
    dataset.keep(split, kept, num_left_out=len(left_out))
    return left_out


def _examine(
    dataset: HuggingFaceDataset, split: Split, block: range, *, known: Mapping[int, str | None]
) -> dict[int, str | None]:
    """Return the complaint about each row of a block, found by all ranks together."""
    unknown = {dataset.row_at(split, place): place for place in block}
    places = [place for row, place in unknown.items() if row not in known]
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = {dataset.row_at(split, place): dataset.bad(split, place) for place in places[rank::world_size]}
    everyone: list[dict[int, str | None]] = [mine] * world_size
    if world_size > 1:
        dist.all_gather_object(everyone, mine)
    return {row: reason for found in everyone for row, reason in found.items()}
