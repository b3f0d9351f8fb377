"""Split of one optimizer step's samples over micro-batches and replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mimo_bench.layout.layout import Layout
from mimo_bench.util import LayoutError


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """Split of one optimizer step's samples over micro-batches and replicas; every layout trains the same samples."""

    global_batch_size: int
    global_micro_batch_size: int
    num_micro_batches: int
    micro_batch_size: Mapping[str, int]
    """Samples per micro-batch on each data-parallel replica, by module."""

    @classmethod
    def of(cls, layout: Layout, *, global_batch_size: int, global_micro_batch_size: int) -> BatchPlan:
        """Split a global batch over a layout.

        Raises:
            LayoutError: the batch is no whole number of micro-batches, or a micro-batch no whole number of samples
                per replica.
        """
        if global_batch_size % global_micro_batch_size:
            raise LayoutError(
                f"global_batch_size = {global_batch_size} is no multiple of "
                f"global_micro_batch_size = {global_micro_batch_size}; change one of them"
            )
        for name, grid in layout.modules.items():
            if global_micro_batch_size % grid.dp:
                raise LayoutError(
                    f"global_micro_batch_size = {global_micro_batch_size} does not split over {name}.dp = {grid.dp}; "
                    f"use a multiple of {grid.dp}, in the scenario or for this layout"
                )
        return cls(
            global_batch_size=global_batch_size,
            global_micro_batch_size=global_micro_batch_size,
            num_micro_batches=global_batch_size // global_micro_batch_size,
            micro_batch_size={name: global_micro_batch_size // grid.dp for name, grid in layout.modules.items()},
        )

    def sample_ids(self, *, step: int, micro_batch: int, module: str, dp_rank: int) -> range:
        """Global sample ids that replica `dp_rank` of `module` sees in one micro-batch; steps count from 0.

        The one sharding rule of all modules: consecutive ids, split into contiguous slices by data-parallel rank,
        which is the order in which the bridge gathers and splits replicas.
        """
        size = self.micro_batch_size[module]
        first = step * self.global_batch_size + micro_batch * self.global_micro_batch_size + dp_rank * size
        return range(first, first + size)
