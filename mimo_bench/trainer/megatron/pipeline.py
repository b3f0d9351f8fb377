"""Pipeline over disjoint modules: encoder rows over bridges, hidden states along the language model, gradients back.

No shape crosses the network: sequences all have one length, and bridges know the rows of their samples (`bridge.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

from megatron.core.pipeline_parallel.multimodule_communicator import MultiModulePipelineCommunicator
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

from mimo_bench.layout import LANGUAGE
from mimo_bench.trainer.loader import MicroBatch
from mimo_bench.trainer.megatron.bridge import UnevenBridge


class LanguagePipe(P2PCommunicator):
    """Communicator between the language model's stages, whose hidden states all have one shape."""

    def __init__(self, of: P2PCommunicator, shape: tuple[int, ...]) -> None:
        """Replace `of`; `shape` is of one micro-batch on one rank, [s, b, h]."""
        config = copy(of.config)
        # The multi-module schedule requires it, of its own configuration; here it would send each shape ahead.
        config.variable_seq_lengths = False
        super().__init__(of.pp_group, config)
        self._shape = shape

    def _communicate(self, *, tensor_shape: Any, **options: Any) -> Any:
        return super()._communicate(tensor_shape=None if tensor_shape is None else self._shape, **options)


class Pipeline(MultiModulePipelineCommunicator):
    """Communicator of all tensors between ranks of disjoint modules.

    An encoder with fewer stages than another begins later.
    """

    def __init__(self, *options: Any, language_shape: tuple[int, ...], **more: Any) -> None:
        """Take megatron-core's options, and `language_shape`, [s, b, h], of hidden states on one rank. Collective."""
        self._width = language_shape[-1]
        super().__init__(*options, **more)
        if (language := self.rank_module_map.get(LANGUAGE)) is not None:
            language.p2p_communicator = LanguagePipe(language.p2p_communicator, language_shape)

    @property
    def current_stage(self) -> int:
        """Return the stage of this rank, counted from the last stage of the language model.

        megatron-core 0.19 counts from the first stage of each encoder. The shorter of two encoders then sends a second
        micro-batch ahead while the language model sends the gradient of the first: a deadlock.
        """
        name, module = next(iter(self.rank_module_map.items()))
        stages_after = 0 if name == LANGUAGE else self._num_stages(LANGUAGE)
        stage: int = self.total_stages - (module.pp_size - module.pp_rank) - stages_after
        return stage

    def start(self, batch: Sequence[MicroBatch]) -> None:
        """Begin a global batch of these micro-batches."""
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
