"""Bridges from encoders to the language model for samples that differ in how many rows they have.

megatron-core 0.19 splits and gathers replicas as if all had the same number of rows. Between ranks it also sends every
shape ahead of its tensor and waits for the device to read it, and sums whatever crosses for a line of its log.

Both bridges here take sizes from the micro-batch, so no number crosses the network. A rank knows the rows of its own
samples. Of two replicas that meet on a bridge, the one with more samples knows the rows of the other: from its items if
it is the encoder's, from its texts if it is the language model's. A source gets back the gradient of the rows that it
sent. A replica without any item still takes part, so every gradient hook of its encoder fires.

    ColocatedBridge   modules on the same ranks: an all-gather among replicas, or a slice of one
    UnevenBridge      modules on other ranks: leaders of replicas send to each other and broadcast to their stage
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.mimo.comm.colocated_communicator import ColocatedBridgeCommunicator
from megatron.core.pipeline_parallel.bridge_communicator import BridgeCommunicator

from mimo_bench.trainer.loader import MicroBatch


def rows_by_sample(num_rows: int, items: Sequence[int]) -> list[int]:
    """Split an encoder's `num_rows` over samples.

    Args:
        num_rows: rows of all items, or of the one blank item of a replica that has none.
        items: number of items of each sample of the replica.
    """
    per_item, rest = divmod(num_rows, max(1, sum(items)))
    assert not rest, f"{num_rows} rows are no whole number for each of {sum(items)} items"
    return [count * per_item for count in items]


def own_rows(rows: torch.Tensor, items: Sequence[int]) -> torch.Tensor:
    """Return the rows of this replica's samples, without those of a blank item.

    A blank item's rows get a gradient of zero, so every gradient hook of the encoder fires.
    """
    return rows[: sum(rows_by_sample(len(rows), items))]


def parts_of(rows_of_samples: Sequence[int], num_parts: int) -> list[int]:
    """Sum rows over each of `num_parts` equal runs of samples."""
    length = len(rows_of_samples) // num_parts
    return [sum(rows_of_samples[i * length : (i + 1) * length]) for i in range(num_parts)]


class ColocatedBridge:
    """Replaces megatron-core's communicator of an encoder that shares its ranks with the language model."""

    def __init__(self, even: ColocatedBridgeCommunicator, encoder: str, batch: Callable[[], MicroBatch]) -> None:
        """Exchange rows of `encoder` over the groups of `even`; it has none if both modules have the same replicas.

        `batch` returns the micro-batch that is inside the model.
        """
        self._even, self._encoder, self._batch = even, encoder, batch

    @property
    def gather_pg(self) -> Any:
        """Ranks whose replicas are gathered or split."""
        return self._even.gather_pg

    def communicate(self, rows: torch.Tensor) -> torch.Tensor:
        """Turn the rows [rows, h] of this rank's encoder replica into those of its language replica."""
        batch = self._batch()
        sizes = rows_by_sample(len(rows), batch.items_per_sample[self._encoder])
        own = rows[: sum(sizes)]
        if self._even.is_fan_in():
            text_rows = batch.rows_per_sample[self._encoder]
            parts, replica = parts_of(text_rows, self._even.scale), self._even.rank_to_src_pos
        elif self._even.is_fan_out():
            parts, replica = parts_of(sizes, self._even.scale), self._even.rank_to_dest_pos
        else:
            return own.contiguous()
        index = replica[self._even.current_rank][0] % self._even.scale
        exchange = GatherReplicas if self._even.is_fan_in() else SplitReplica
        exchanged: torch.Tensor = exchange.apply(own, parts, index, self.gather_pg)  # type: ignore[no-untyped-call]
        return exchanged

    def destroy(self) -> None:
        """Release the group."""
        self._even.destroy()


class GatherReplicas(torch.autograd.Function):
    """Rows of several encoder replicas in order; backward, each replica gets the gradient of its own rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, parts: list[int], index: int, group: Any) -> torch.Tensor:
        """Gather `parts` rows of each rank of `group`; this rank's are those at `index`."""
        ctx.parts, ctx.index = parts, index
        return _gather(rows, parts, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        """Return the gradient of this replica's rows."""
        return gradient.split(ctx.parts)[ctx.index].contiguous(), None, None, None


class SplitReplica(torch.autograd.Function):
    """Rows of one language replica, cut out of an encoder replica's; backward, the gradients of all are gathered."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, parts: list[int], index: int, group: Any) -> torch.Tensor:
        """Cut out the part at `index`."""
        ctx.parts, ctx.group = parts, group
        part: torch.Tensor = rows.split(parts)[index]
        return part.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        """Gather the gradients of all parts."""
        return _gather(gradient, ctx.parts, ctx.group), None, None, None


def _gather(rows: torch.Tensor, parts: list[int], group: Any) -> torch.Tensor:
    """Gather the parts of a group in its order.

    A collective takes equal sizes, so short parts travel with padding.
    """
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


class UnevenBridge(BridgeCommunicator):
    """Bridge between modules on other ranks.

    Leaders of replicas send to each other and broadcast what they receive to the ranks of their stage. Each bridge has
    process groups of its own: megatron-core shares one among bridges of the same ranks, and a call could then not be
    assigned to an encoder.
    """

    def __init__(self, *, width: int, **options: Any) -> None:
        """Carry rows of `width`; `options` are megatron-core's. Collective over the world."""
        super().__init__(**options)
        self._width = width
        self._is_source = self.is_current_rank_in_grid(self.src_grid)
        info = self.comm_map.get(self.current_rank)
        self._peers: list[int] = [] if info is None else info.send_to_ranks if self._is_source else info.recv_from_ranks
        self._samples: deque[Sequence[int]] = deque()
        self._in_flight: deque[list[int]] = deque()
        """Rows by peer of the micro-batches whose gradients are due, in order."""

    def start(self, batch: Sequence[MicroBatch]) -> None:
        """Begin a global batch. Sizes that an evaluation left, as it has no backward pass, are dropped."""
        name = self.src_module_name
        counts = (part.items_per_sample if self._is_source else part.rows_per_sample for part in batch)
        self._samples = deque(by_module.get(name, ()) for by_module in counts)
        self._in_flight.clear()

    def send_forward(self, tensor_to_send: torch.Tensor) -> None:
        """Send the rows of this replica, [rows, width]."""
        self._send(tensor_to_send, self._sizes_to_send(tensor_to_send))

    def recv_forward(self) -> torch.Tensor:
        """Receive the rows of this replica's samples, [rows, width]; a leaf of the autograd graph."""
        sizes = self._sizes_to_receive()
        rows = self._empty(sizes)
        self._receive(rows, sizes)
        return self._broadcast(rows).requires_grad_()

    def send_backward(self, grad_tensor: torch.Tensor) -> None:
        """Send every source the gradient of its rows."""
        self._send(grad_tensor, self._in_flight.popleft())

    def recv_backward(self) -> torch.Tensor:
        """Receive the gradient of the rows that this replica sent, [rows, width]."""
        sizes = self._in_flight.popleft()
        gradient = self._empty(sizes)
        self._receive(gradient, sizes)
        return self._broadcast(gradient)

    def send_forward_recv_backward(
        self, input_tensor: torch.Tensor, grad_shape: tuple[int, ...] | None = None
    ) -> torch.Tensor:
        """Exchange rows and gradients in one batch, as the other end does; `grad_shape` is known here."""
        to_send = self._sizes_to_send(input_tensor)
        to_receive = self._in_flight.popleft()
        gradient = self._empty(to_receive)
        self._exchange(input_tensor, to_send, gradient, to_receive)
        return self._broadcast(gradient)

    def send_backward_recv_forward(
        self, grad_tensor: torch.Tensor, forward_shape: tuple[int, ...] | None = None
    ) -> torch.Tensor:
        """Exchange gradients and rows in one batch, as the other end does; `forward_shape` is known here."""
        to_send = self._in_flight.popleft()
        to_receive = self._sizes_to_receive()
        rows = self._empty(to_receive)
        self._exchange(grad_tensor, to_send, rows, to_receive)
        return self._broadcast(rows).requires_grad_()

    def _sizes_to_send(self, rows: torch.Tensor) -> list[int]:
        return self._begin(rows_by_sample(len(rows), self._samples.popleft()))

    def _sizes_to_receive(self) -> list[int]:
        return self._begin(self._samples.popleft())

    def _begin(self, rows_of_samples: Sequence[int]) -> list[int]:
        # A rank that is no leader has no peer; its one part is the whole, which it receives by broadcast.
        self._in_flight.append(parts_of(rows_of_samples, len(self._peers) or 1))
        return self._in_flight[-1]

    def _empty(self, sizes: list[int]) -> torch.Tensor:
        return torch.empty(sum(sizes), self._width, device=torch.cuda.current_device(), dtype=self.comm_dtype)

    def _send(self, tensor: torch.Tensor, sizes: list[int]) -> None:
        for peer, part in zip(self._peers, self._parts_to_send(tensor, sizes), strict=False):
            dist.send(part.contiguous(), dst=peer, group=self.bridge_pg)

    def _receive(self, tensor: torch.Tensor, sizes: list[int]) -> None:
        for peer, buffer in zip(self._peers, tensor.split(sizes), strict=False):
            dist.recv(buffer, src=peer, group=self.bridge_pg)

    def _exchange(
        self, to_send: torch.Tensor, sizes_to_send: list[int], to_receive: torch.Tensor, sizes_to_receive: list[int]
    ) -> None:
        parts, buffers = self._parts_to_send(to_send, sizes_to_send), to_receive.split(sizes_to_receive)
        operations = []
        for peer, part, buffer in zip(self._peers, parts, buffers, strict=False):
            operations.append(dist.P2POp(dist.isend, part.contiguous(), peer, self.bridge_pg))
            operations.append(dist.P2POp(dist.irecv, buffer, peer, self.bridge_pg))
        if operations:
            for work in dist.batch_isend_irecv(operations):
                work.wait()

    def _parts_to_send(self, tensor: torch.Tensor, sizes: list[int]) -> Sequence[torch.Tensor]:
        parts: Sequence[torch.Tensor] = tensor.split(sizes)
        return parts

    def _broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Broadcast from the leader of this stage to its ranks."""
        source = self.src_local_leader_rank, self.src_grid_broadcast_ranks, self.src_grid_broadcast_pg
        destination = self.dest_local_leader_rank, self.dest_grid_broadcast_ranks, self.dest_grid_broadcast_pg
        leader, ranks, group = source if self._is_source else destination
        if len(ranks) > 1:
            dist.broadcast(tensor, src=leader, group=group)
        return tensor

    @classmethod
    def _get_or_create_broadcast_pg(cls, ranks_list: list[list[int]]) -> Any:
        group, _ = dist.new_subgroups_by_enumeration(ranks_list)
        return group

    @classmethod
    def _get_or_create_bridge_pg(cls, ranks: list[int]) -> Any:
        return dist.new_group(sorted(ranks))
