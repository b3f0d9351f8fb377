"""The way of encoder rows to the language model where samples differ in how many they have.

megatron-core 0.19 splits and joins replicas as if all had the same number of rows. Here every split has the sizes that
the samples give it: what a source sent is what it gets back, and a replica without any item still takes part. No
number is asked for over the network. A rank knows the rows of its own samples, and of two replicas that meet on the
bridge the one with more samples knows those of the other: from its items where the encoder's is the larger, from its
texts where the language model's is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.mimo.comm.colocated_communicator import ColocatedBridgeCommunicator
from megatron.core.models.mimo.model.base import MimoModel


def rows_by_sample(num_rows: int, items: Sequence[int]) -> list[int]:
    """How many of an encoder's `num_rows` belong to each sample.

    Args:
        num_rows: what the encoder gave for all items, or for the one blank item of a replica that has none.
        items: of each sample of the replica.
    """
    per_item, rest = divmod(num_rows, max(1, sum(items)))
    assert not rest, f"{num_rows} rows are no whole number for each of {sum(items)} items"
    return [count * per_item for count in items]


def own_rows(rows: torch.Tensor, items: Sequence[int]) -> torch.Tensor:
    """What an encoder rank sends over a bridge between ranks: its samples' rows.

    The row of a blank item is left out, and gets a gradient of zero: so every gradient hook of the encoder fires.
    """
    return rows[: sum(rows_by_sample(len(rows), items))]


class ColocatedBridge:
    """Stands in for megatron-core's communicator of an encoder that shares its ranks with the language model."""

    def __init__(self, even: ColocatedBridgeCommunicator) -> None:
        """Exchange over the groups of `even`, which has none where both modules have the same replicas."""
        self._even = even
        self._items: Sequence[int] = ()
        self._text_rows: Sequence[int] = ()

    @property
    def gather_pg(self) -> Any:
        """The ranks whose replicas are joined or split."""
        return self._even.gather_pg

    def expect(self, *, items: Sequence[int], text_rows: Sequence[int]) -> None:
        """Say what the next micro-batch holds, before it goes forward.

        Args:
            items: of each sample of this rank's encoder replica.
            text_rows: positions that wait for rows, of each sample of this rank's language replica.
        """
        self._items, self._text_rows = items, text_rows

    def communicate(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows [rows, h] of this rank's encoder replica become those of its language replica."""
        sizes = rows_by_sample(len(rows), self._items)
        own = rows[: sum(sizes)]
        if self._even.is_fan_in():
            parts, replica = parts_of(self._text_rows, self._even.scale), self._even.rank_to_src_pos
        elif self._even.is_fan_out():
            parts, replica = parts_of(sizes, self._even.scale), self._even.rank_to_dest_pos
        else:
            return own.contiguous()
        index = replica[self._even.current_rank][0] % self._even.scale
        exchange = _Join if self._even.is_fan_in() else _Part
        joined: torch.Tensor = exchange.apply(own, parts, index, self.gather_pg)  # type: ignore[no-untyped-call]
        return joined

    def destroy(self) -> None:
        """Release the group."""
        self._even.destroy()


def colocated_bridges(model: MimoModel) -> dict[str, ColocatedBridge]:
    """Put bridges that take uneven rows in the place of the model's; by encoder, none where modules are disjoint."""
    model.colocated_comms = {ends: ColocatedBridge(even) for ends, even in model.colocated_comms.items()}
    return {encoder: bridge for (encoder, _), bridge in model.colocated_comms.items()}


def parts_of(rows_of_samples: Sequence[int], num_parts: int) -> list[int]:
    """Rows of each of `num_parts` equal runs of samples."""
    length = len(rows_of_samples) // num_parts
    return [sum(rows_of_samples[i * length : (i + 1) * length]) for i in range(num_parts)]


class _Join(torch.autograd.Function):
    """Rows of several encoder replicas, one behind the other; each gets the gradient of its own back."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, parts: list[int], index: int, group: Any) -> torch.Tensor:
        ctx.parts, ctx.index = parts, index
        return _gather(rows, parts, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return gradient.split(ctx.parts)[ctx.index].contiguous(), None, None, None


class _Part(torch.autograd.Function):
    """The rows of one language replica out of an encoder replica's; the gradients of all are joined again."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, parts: list[int], index: int, group: Any) -> torch.Tensor:
        ctx.parts, ctx.group = parts, group
        part: torch.Tensor = rows.split(parts)[index]
        return part.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return _gather(gradient, ctx.parts, ctx.group), None, None, None


def _gather(rows: torch.Tensor, parts: list[int], group: Any) -> torch.Tensor:
    """All parts of a group, in its order; a collective takes equal sizes, so short parts travel with padding."""
    longest = max(parts)
    if not longest:
        return rows.contiguous()
    padded = rows.contiguous()
    if len(rows) < longest:
        padded = torch.cat([rows, rows.new_zeros(longest - len(rows), rows.size(1))])
    gathered = rows.new_empty(longest * len(parts), rows.size(1))
    dist.all_gather_into_tensor(gathered, padded, group=group)
    if min(parts) == longest:
        return gathered
    return torch.cat([part[:size] for part, size in zip(gathered.split(longest), parts, strict=True)])
