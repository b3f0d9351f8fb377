"""Predictions know the images of the samples that will be drawn, by replica and micro-batch."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mimo_bench.data.prepare import build_dataset
from mimo_bench.predict.items import ItemCounts
from mimo_bench.scenario.scenario import Scenario


def scenario(**data: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "question": "How many images?",
            "model": "llava-tiny",
            "seed": 5,
            "data": {"provider": "synthetic", **data},
            "global_batch_size": 16,
            "global_micro_batch_size": 4,
            "seq_length": 160,
            "baseline": "two-replicas",
            "steps": {"parity": 2, "warmup": 1, "timed": 3},
            "layout": [{"name": "two-replicas", "vision": {"dp": 2}, "language": {"dp": 2}}],
        }
    )


SKEWED = {"items_per_sample": {"vision": (2.0, 3.0, 0.0, 0.0, 1.0)}}


def by_micro_batch(known: Scenario, dp_rank: int) -> list[list[int]]:
    """Images of the replica's micro-batches, step by step, as the dataset of the ranks has them."""
    data = build_dataset(known.data, shape=known.shape, seq_length=known.seq_length, seed=known.seed)
    first = [[step * 16 + number * 4 + dp_rank * 2 for number in range(4)] for step in range(4)]
    return [[sum(data.num_items("vision", "train", one) for one in (at, at + 1)) for at in row] for row in first]


@pytest.mark.parametrize("num_in_flight", [1, 2, 4])
@pytest.mark.parametrize("dp_rank", [0, 1])
def test_a_replica_holds_what_the_fullest_micro_batches_that_it_has_at_once_hold(
    dp_rank: int, num_in_flight: int
) -> None:
    known = scenario(**SKEWED)
    rows = by_micro_batch(known, dp_rank)
    together = [sum(row[at : at + num_in_flight]) for row in rows for at in range(5 - num_in_flight)]
    counts, plan = ItemCounts(known, "vision"), known.case("two-replicas").plan
    found = counts.in_flight("vision", plan, dp_rank=dp_rank, num_in_flight=num_in_flight)
    assert found == math.ceil(max(together) / num_in_flight)
    assert counts.in_all("vision", plan, dp_rank=dp_rank) == sum(map(sum, rows))


def test_where_samples_are_alike_nothing_is_drawn() -> None:
    known = scenario()
    counts, plan = ItemCounts(known, "vision"), known.case("two-replicas").plan
    assert counts.in_flight("vision", plan, dp_rank=1, num_in_flight=2) == 2
    assert counts.in_all("vision", plan, dp_rank=1) == 4 * 8
