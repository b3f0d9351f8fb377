"""What samples cost a layout, out of what its ranks saw."""

from __future__ import annotations

import pytest

from mimo_bench.record.samples import imbalance, merge_loading
from mimo_bench.record.schema import RankLoading, RankRecord
from tests.support import golden


def rank(**found: object) -> RankRecord:
    """A rank of the timing mode, with what a test is about."""
    return golden.ranks(golden.BASELINE)[0].model_copy(update=found)


def test_the_busiest_replica_of_each_micro_batch_counts() -> None:
    # The busiest have 3 and 4 items, the replicas 6 and 4 in all: 7 over a mean of 5.
    ranks = [rank(micro_batch_items={"vision": (3, 3)}), rank(micro_batch_items={"vision": (0, 4)})]
    assert imbalance(ranks) == {"vision": pytest.approx(7 / 5)}


def test_replicas_with_as_many_items_are_even_and_ranks_of_one_replica_change_nothing() -> None:
    even = [rank(micro_batch_items={"vision": (2, 1)})] * 2
    assert imbalance(even) == {"vision": 1.0}
    uneven = [rank(micro_batch_items={"vision": (3, 3)}), rank(micro_batch_items={"vision": (0, 4)})]
    assert imbalance([*uneven, *uneven]) == imbalance(uneven)


def test_a_rank_without_the_encoder_and_a_run_without_items_say_nothing() -> None:
    assert imbalance([rank(micro_batch_items={}), rank(micro_batch_items={"vision": (0, 0)})]) == {}


def test_the_slowest_worker_and_the_longest_wait_are_the_jobs() -> None:
    ranks = [
        rank(loading=RankLoading(num_workers=2, samples_per_second_per_worker=50.0, stall_share=0.25)),
        rank(loading=RankLoading(num_workers=2, samples_per_second_per_worker=None, stall_share=0.5)),
        rank(loading=RankLoading(num_workers=2, samples_per_second_per_worker=40.0, stall_share=0.0)),
    ]
    loading = merge_loading(ranks)
    assert loading is not None
    assert (loading.samples_per_second_per_worker, loading.stall_share) == (40.0, 0.5)
    assert merge_loading([rank(loading=None)]) is None
