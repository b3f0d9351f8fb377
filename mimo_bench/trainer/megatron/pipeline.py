"""The pipeline over disjoint modules: encoder rows to the language model, hidden states along it, gradients back.

megatron-core 0.19 sends every shape ahead of its tensor and waits for the device to read it; it sums whatever crosses a
bridge for a line of its log, even where nobody logs, and waits for that as well. So no rank runs ahead of its device.
Here nothing is asked for over the network: sequences all have one length, and a rank knows the rows of its own samples.
Of two replicas that meet on a bridge the one with more samples knows those of the other: from its items where the
encoder's is the larger, from its texts where the language model's is. What a source sent is what it gets back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel.bridge_communicator import BridgeCommunicator
from megatron.core.pipeline_parallel.multimodule_communicator import MultiModulePipelineCommunicator
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

from mimo_bench.layout import LANGUAGE
from mimo_bench.trainer.loader import MicroBatch
from mimo_bench.trainer.megatron.bridge import parts_of, rows_by_sample


class UnevenBridge(BridgeCommunicator):
    """A bridge between ranks whose samples differ in how many rows they have.

    Leaders of replicas send to each other, and share what they get with the tensor-parallel ranks of their stage.

    Its groups are its own. megatron-core shares one among bridges that join the same ranks, and then nobody can tell
    which encoder a call was made for.
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
        """Rows by peer of the micro-batches that went forward and have not come back; they do so in the same order."""

    def start(self, batch: Sequence[MicroBatch]) -> None:
        """A new global batch begins; what an evaluation never sent back is forgotten."""
        name = self.src_module_name
        held = (part.items_per_sample if self._is_source else part.rows_per_sample for part in batch)
        self._samples = deque(counts.get(name, ()) for counts in held)
        self._in_flight.clear()

    def send_forward(self, tensor_to_send: torch.Tensor) -> None:
        """Send the rows of this replica, [rows, width]."""
        self._send(tensor_to_send, self._departing(tensor_to_send))

    def recv_forward(self) -> torch.Tensor:
        """The rows of this replica's samples, [rows, width], behind which a backward pass ends."""
        sizes = self._arriving()
        rows = self._empty(sizes)
        self._receive(rows, sizes)
        return self._shared(rows).requires_grad_()

    def send_backward(self, grad_tensor: torch.Tensor) -> None:
        """Send every source the gradient of the rows that it sent."""
        self._send(grad_tensor, self._in_flight.popleft())

    def recv_backward(self) -> torch.Tensor:
        """The gradient of the rows that this replica sent, [rows, width]."""
        sizes = self._in_flight.popleft()
        gradient = self._empty(sizes)
        self._receive(gradient, sizes)
        return self._shared(gradient)

    def send_forward_recv_backward(
        self, input_tensor: torch.Tensor, grad_shape: tuple[int, ...] | None = None
    ) -> torch.Tensor:
        """Both at once, as the other end does; `grad_shape` is known here."""
        leaving = self._departing(input_tensor)
        coming = self._in_flight.popleft()
        gradient = self._empty(coming)
        self._exchange(input_tensor, leaving, gradient, coming)
        return self._shared(gradient)

    def send_backward_recv_forward(
        self, grad_tensor: torch.Tensor, forward_shape: tuple[int, ...] | None = None
    ) -> torch.Tensor:
        """Both at once, as the other end does; `forward_shape` is known here."""
        leaving = self._in_flight.popleft()
        coming = self._arriving()
        rows = self._empty(coming)
        self._exchange(grad_tensor, leaving, rows, coming)
        return self._shared(rows).requires_grad_()

    def _departing(self, rows: torch.Tensor) -> list[int]:
        """Rows by peer of the next micro-batch that leaves."""
        return self._next(rows_by_sample(len(rows), self._samples.popleft()))

    def _arriving(self) -> list[int]:
        """Rows by peer of the next micro-batch that comes."""
        return self._next(self._samples.popleft())

    def _next(self, rows_of_samples: Sequence[int]) -> list[int]:
        # Ranks that only share what their leader gets have no peer, and one part that nobody asks for.
        self._in_flight.append(parts_of(rows_of_samples, len(self._peers) or 1))
        return self._in_flight[-1]

    def _empty(self, sizes: list[int]) -> torch.Tensor:
        return torch.empty(sum(sizes), self._width, device=torch.cuda.current_device(), dtype=self.comm_dtype)

    def _send(self, tensor: torch.Tensor, sizes: list[int]) -> None:
        for peer, part in zip(self._peers, self._parts_to_send(tensor, sizes), strict=False):
            dist.send(part.contiguous(), dst=peer, group=self.bridge_pg)

    def _receive(self, tensor: torch.Tensor, sizes: list[int]) -> None:
        for peer, room in zip(self._peers, tensor.split(sizes), strict=False):
            dist.recv(room, src=peer, group=self.bridge_pg)

    def _exchange(
        self, leaving: torch.Tensor, leaving_sizes: list[int], coming: torch.Tensor, coming_sizes: list[int]
    ) -> None:
        parts, rooms = self._parts_to_send(leaving, leaving_sizes), coming.split(coming_sizes)
        calls = []
        for peer, part, room in zip(self._peers, parts, rooms, strict=False):
            calls.append(dist.P2POp(dist.isend, part.contiguous(), peer, self.bridge_pg))
            calls.append(dist.P2POp(dist.irecv, room, peer, self.bridge_pg))
        if calls:
            for call in dist.batch_isend_irecv(calls):
                call.wait()

    def _parts_to_send(self, tensor: torch.Tensor, sizes: list[int]) -> Sequence[torch.Tensor]:
        parts: Sequence[torch.Tensor] = tensor.split(sizes)
        return parts

    def _shared(self, tensor: torch.Tensor) -> torch.Tensor:
        """What the leader of this stage got, on all of its ranks."""
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


class LanguagePipe(P2PCommunicator):
    """Between the language model's stages, whose hidden states all have the same shape."""

    def __init__(self, of: P2PCommunicator, shape: tuple[int, ...]) -> None:
        """Take the place of `of`; `shape` is of one micro-batch on one rank, [s, b, h]."""
        config = copy(of.config)
        # Only multi-module schedules ask for it, and theirs is another one.
        config.variable_seq_lengths = False
        super().__init__(of.pp_group, config)
        self._shape = shape

    def _communicate(self, *, tensor_shape: Any, **options: Any) -> Any:
        return super()._communicate(tensor_shape=None if tensor_shape is None else self._shape, **options)


class Pipeline(MultiModulePipelineCommunicator):
    """The way of all tensors between ranks of disjoint modules.

    An encoder with fewer stages than another begins later, not earlier.
    """

    def __init__(self, *options: Any, language_shape: tuple[int, ...], **more: Any) -> None:
        """Hidden states have `language_shape`, [s, b, h] on one rank; the rest is megatron-core's. Collective."""
        self._width = language_shape[-1]
        super().__init__(*options, **more)
        if (language := self.rank_module_map.get(LANGUAGE)) is not None:
            language.p2p_communicator = LanguagePipe(language.p2p_communicator, language_shape)

    @property
    def current_stage(self) -> int:
        """The stage of this rank, counted from the last stage of the language model.

        megatron-core counts from the first stage of each encoder. Of two encoders the shorter one then sends a second
        micro-batch ahead while the language model sends the first one's gradient, and both wait for ever.
        """
        name, module = next(iter(self.rank_module_map.items()))
        behind = 0 if name == LANGUAGE else self._num_stages(LANGUAGE)
        stage: int = self.total_stages - (module.pp_size - module.pp_rank) - behind
        return stage

    def start(self, batch: Sequence[MicroBatch]) -> None:
        """A new global batch begins, of these micro-batches."""
        for bridge in self.bridge_comms:
            bridge.start(batch)

    def _num_stages(self, module: str) -> int:
        grid = self.module_to_grid_map[module]
        size: int = grid.shape[grid.dim_names.index("pp")]
        return size

    def _build_bridge_comms(self) -> None:
        self.bridge_comms = [
            UnevenBridge(
                width=self._width,
                src_grid=self.module_to_grid_map[source],
                dest_grid=self.module_to_grid_map[destination],
                dim_mapping=self.dim_mapping,
                comm_dtype=self.config.pipeline_dtype,
                src_module_name=source,
                dest_module_name=destination,
                tensor_ndim=self.module_output_ndim.get(source, 3),
            )
            for source, destinations in self.topology.items()
            for destination in destinations
        ]
