"""Which timed batches are trained on before they are timed."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from mimo_bench.trainer import MicroBatch


def rehearsal(batches: Sequence[Sequence[MicroBatch]], *, num_warmup: int) -> list[Sequence[MicroBatch]]:
    """Return the timed batches to run before they are timed: those with a shape that no batch before them has.

    Kernels are chosen, loaded and given their workspace where a number of images first comes up: seconds and memory
    that no later step needs. Weights stay as they are, so every layout trains on the same batches, whichever its ranks
    rehearse. Collective over the world.

    Args:
        batches: of the warm-up and the timed window.
        num_warmup: number of warm-up batches.
    """
    everyone: list[list[int]] = [[]] * dist.get_world_size()
    dist.all_gather_object(everyone, unseen([shapes(batch) for batch in batches], first=num_warmup))
    return [batches[step] for step in sorted({step for steps in everyone for step in steps})]


def unseen(shapes_by_step: Sequence[set[tuple[int, ...]]], *, first: int) -> list[int]:
    """The steps from `first` on with a shape that no step before them has."""
    seen: set[tuple[int, ...]] = set().union(*shapes_by_step[:first])
    found = []
    for step in range(first, len(shapes_by_step)):
        if not shapes_by_step[step] <= seen:
            seen |= shapes_by_step[step]
            found.append(step)
    return found


def shapes(batch: Sequence[MicroBatch]) -> set[tuple[int, ...]]:
    """The items of each encoder that a rank holds, micro-batch by micro-batch: what its kernels see differ."""
    return {tuple(sum(items) for items in part.items_per_sample.values()) for part in batch}
