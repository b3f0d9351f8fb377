"""Items of samples and of the ranks of an encoder, of the very samples that will be drawn where they are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from mimo_bench.data import DigitsData, SyntheticData
from mimo_bench.layout import BatchPlan
from mimo_bench.predict.step import Items
from mimo_bench.scenario import Scenario


class ItemCounts:
    """Items of one encoder, such as images, in the samples of a launch that is timed."""

    def __init__(self, scenario: Scenario, module: str) -> None:
        """Count those of every sample, where samples are drawn and differ in them."""
        data = scenario.data
        self._num_steps = scenario.steps.warmup + scenario.steps.timed
        known = data.most_items(module)
        # Where own files do not tell, one is assumed, and `check` says so.
        self._most = 1 if known is None else known
        self._before: list[int] | None = None
        if isinstance(data, SyntheticData) and data.counts_vary:
            samples = range(self._num_steps * scenario.global_batch_size)
            counts = (data.num_items(module, seed=scenario.seed, split="train", sample_id=one) for one in samples)
            self._before = [0, *accumulate(counts)]

    def in_flight(self, module: str, plan: BatchPlan, *, dp_rank: int, num_in_flight: int) -> int:
        """The most that a replica holds at once, for each of the micro-batches in flight, rounded up."""
        if self._before is None:
            return self._most * plan.micro_batch_size[module]
        most = 0
        for step in range(self._num_steps):
            counts = self._by_micro_batch(module, plan, step=step, dp_rank=dp_rank)
            starts = range(len(counts) - num_in_flight + 1)
            most = max(most, *(sum(counts[start : start + num_in_flight]) for start in starts))
        return math.ceil(most / num_in_flight)

    def in_all(self, module: str, plan: BatchPlan, *, dp_rank: int) -> int:
        """Those of all samples that a replica trains on."""
        if self._before is None:
            return self._num_steps * self._most * plan.micro_batch_size[module] * plan.num_micro_batches
        return sum(
            sum(self._by_micro_batch(module, plan, step=step, dp_rank=dp_rank)) for step in range(self._num_steps)
        )

    def _by_micro_batch(self, module: str, plan: BatchPlan, *, step: int, dp_rank: int) -> list[int]:
        assert self._before is not None
        places = (
            plan.sample_ids(step=step, micro_batch=number, module=module, dp_rank=dp_rank)
            for number in range(plan.num_micro_batches)
        )
        return [self._before[ids.stop] - self._before[ids.start] for ids in places]


def items_by_step(scenario: Scenario) -> Sequence[Items] | None:
    """The items of the samples of every timed step, or of one that stands for all; None if unknown."""
    data, encoders, size = scenario.data, scenario.shape.encoders, scenario.global_batch_size
    if isinstance(data, SyntheticData) and data.counts_vary:
        first, steps = scenario.steps.warmup, scenario.steps.timed
        return [
            {
                name: [data.num_items(name, seed=scenario.seed, split="train", sample_id=one) for one in samples]
                for name in encoders
            }
            for samples in (range(step * size, (step + 1) * size) for step in range(first, first + steps))
        ]
    if isinstance(data, SyntheticData):
        is_text_only = data.text_only_share == 1
        return [{name: (0 if is_text_only else data.most_items(name),) * size for name in encoders}]
    return [dict.fromkeys(encoders, (1,) * size)] if isinstance(data, DigitsData) else None
