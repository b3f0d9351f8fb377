"""What the samples of a run cost a layout: loading them, and waiting for the replica that got most of them."""

from __future__ import annotations

from collections.abc import Sequence

from mimo_bench.record.schema import Loading, RankRecord


def merge_loading(ranks: Sequence[RankRecord]) -> Loading | None:
    """What loading cost the job: its slowest worker, and the rank that waited most; None where it was not watched."""
    found = [rank.loading for rank in ranks if rank.loading is not None]
    if not found:
        return None
    rates = [one.samples_per_second_per_worker for one in found if one.samples_per_second_per_worker is not None]
    return Loading(
        num_workers=found[0].num_workers,
        samples_per_second_per_worker=min(rates, default=None),
        stall_share=max(one.stall_share for one in found),
    )


def imbalance(ranks: Sequence[RankRecord]) -> dict[str, float]:
    """By encoder, items of the busiest replica over the mean of all, summed over micro-batches; none without items.

    A micro-batch is done when its busiest replica is. Ranks of one replica hold the same items, and every replica has
    as many ranks, so ranks may stand for replicas.
    """
    found = {}
    for module in dict.fromkeys(name for rank in ranks for name in rank.micro_batch_items):
        by_rank = [rank.micro_batch_items[module] for rank in ranks if module in rank.micro_batch_items]
        busiest = sum(max(items) for items in zip(*by_rank, strict=True))
        mean = sum(map(sum, by_rank)) / len(by_rank)
        if mean:
            found[module] = busiest / mean
    return found
