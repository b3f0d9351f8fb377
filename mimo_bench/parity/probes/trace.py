"""Sketches of every layer's output and of its gradient, for every item of one step.

A sketch is a handful of random projections from the counter-based generator. Equal tensors have equal sketches in any
layout, and the distance of two sketches estimates the distance of the tensors. Ranks that share a sequence add theirs
up. A trace takes kilobytes, and activations take gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.transformer.transformer_layer import TransformerLayer

from mimo_bench.layout import LANGUAGE
from mimo_bench.models import uniform
from mimo_bench.parity.trace import Glimpse, TraceRecord, add_parts
from mimo_bench.trainer import MicroBatch, Trainer, hosted_modules, unwrap

NUM_PROJECTIONS = 16

_LAST = 1 << 20
"""Depth of points after all layers."""


_Shaped = Callable[[torch.Tensor, int], torch.Tensor]
"""Return a tensor of that number of items as [s, items, h]."""


class Trace:
    """Hooks that watch one training step and change nothing."""

    def __init__(self, trainer: Trainer, batch: Sequence[MicroBatch], undo: ExitStack) -> None:
        """Hook every point of the modules on this rank, until `undo` is closed."""
        self._trainer = trainer
        self._batch = batch
        self._undo = undo
        self._micro_batch = -1
        self._is_forward = False
        self._recomputed: dict[str, int] = {}
        self._glimpses: dict[tuple[str, str, int, str], tuple[Glimpse, bool]] = {}
        undo.callback(trainer.model.register_forward_pre_hook(self._begin).remove)
        undo.callback(trainer.model.register_forward_hook(self._end).remove)
        for name, module in hosted_modules(trainer.model):
            self._watch_layers(name, unwrap(module))
            if name == LANGUAGE:
                self._watch_language(unwrap(module))
            elif trainer.topology.is_last_stage(name):
                self._hook(unwrap(module), f"{name}.output", _LAST, _rows_of_items)

    def merge(self) -> TraceRecord:
        """Return the trace of the whole job, the same on every rank; collective over the world."""
        mine = [(glimpse.model_dump_json(), is_part) for glimpse, is_part in self._glimpses.values()]
        everyone: list[list[tuple[str, bool]]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, mine)
        return add_parts([(Glimpse.model_validate_json(text), is_part) for text, is_part in some] for some in everyone)

    def _begin(self, *_: Any) -> None:
        self._micro_batch += 1
        self._is_forward = True

    def _end(self, *_: Any) -> None:
        self._is_forward = False

    def _watch_layers(self, name: str, module: torch.nn.Module) -> None:
        for layer in module.modules():
            if isinstance(layer, TransformerLayer):
                number = layer.layer_number - 1
                self._hook(layer, f"{name}.layer {number}", number, _as_it_is)

    def _watch_language(self, module: torch.nn.Module) -> None:
        layers = [layer for layer in module.modules() if isinstance(layer, TransformerLayer)]
        if self._trainer.topology.is_first_stage(LANGUAGE):

            def before(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
                self._see(f"{LANGUAGE}.input", -1, args[0] if args else kwargs["hidden_states"], _as_it_is)

            self._undo.callback(layers[0].register_forward_pre_hook(before, with_kwargs=True).remove)
        if self._trainer.topology.is_last_stage(LANGUAGE):
            self._hook(module, f"{LANGUAGE}.loss", _LAST, _positions_first)

    def _hook(self, module: torch.nn.Module, point: str, depth: int, shaped: _Shaped) -> None:
        def after(_: torch.nn.Module, __: Any, output: Any) -> None:
            self._see(point, depth, output[0] if isinstance(output, tuple) else output, shaped)

        self._undo.callback(module.register_forward_hook(after).remove)

    def _see(self, point: str, depth: int, tensor: torch.Tensor, shaped: _Shaped) -> None:
        """Take a sketch of an activation, and later of its gradient."""
        micro_batch = self._micro_batch
        if self._is_forward:
            self._take(point, depth, "forward", micro_batch, tensor.detach(), shaped)
        else:
            # Recomputed in the backward pass, which takes micro-batches in order.
            micro_batch = self._recomputed.get(point, 0)
            self._recomputed[point] = micro_batch + 1
        if tensor.requires_grad:
            tensor.register_hook(
                lambda gradient: self._take(point, depth, "backward", micro_batch, gradient.detach(), shaped)
            )

    def _take(
        self, point: str, depth: int, direction: Any, micro_batch: int, tensor: torch.Tensor, shaped: _Shaped
    ) -> None:
        module = point.partition(".")[0]
        items = self._items(module, micro_batch)
        tensor = shaped(tensor, len(items))
        is_part = module == LANGUAGE and depth != _LAST and self._trainer.config.settings.sequence_parallel
        first = tensor.shape[0] * self._trainer.topology.groups[module].tp.rank() if is_part else 0
        for item, (numbers, sums, norm) in zip(items, sketch(tensor, first=first), strict=False):
            glimpse = Glimpse(
                point=point,
                depth=depth,
                direction=direction,
                micro_batch=micro_batch,
                item=item,
                norm=norm,
                sketch=tuple(numbers),
                sums=tuple(sums),
            )
            # A layer's input is hooked twice where the layer is computed twice.
            self._glimpses.setdefault((point, direction, micro_batch, item), (glimpse, is_part))

    def _items(self, module: str, micro_batch: int) -> list[str]:
        batch = self._batch[micro_batch]
        if module == LANGUAGE:
            return [str(sample) for sample in batch.sample_ids[module]]
        # Only first stages read items; on other stages each sample has one.
        num_items = batch.items_per_sample.get(module, (1,) * len(batch.sample_ids[module]))
        counts = zip(batch.sample_ids[module], num_items, strict=True)
        return [f"{sample}.{index}" for sample, count in counts for index in range(count)]


def _as_it_is(tensor: torch.Tensor, _: int) -> torch.Tensor:
    return tensor


def _positions_first(losses: torch.Tensor, _: int) -> torch.Tensor:
    """Reshape losses, [b, s], which are whole on every tensor-parallel rank."""
    return losses.transpose(0, 1).unsqueeze(-1)


def _rows_of_items(rows: torch.Tensor, num_items: int) -> torch.Tensor:
    """Reshape an encoder's output, [items * s, h]."""
    return rows.reshape(num_items, -1, rows.shape[-1]).transpose(0, 1)


def sketch(tensor: torch.Tensor, *, first: int = 0) -> Iterable[tuple[list[float], list[float], float]]:
    """Return random projections of every item and of the sum of its rows, and its norm.

    Args:
        tensor: [s, items, h].
        first: index of its first position in the whole sequence.

    Returns:
        For each item `NUM_PROJECTIONS` numbers with its norm as their root mean square, as many with the norm of the
        sum of its rows, and the norm.
    """
    length, _, width = tensor.shape
    rows = _signs("rows", torch.arange(first, first + length, device=tensor.device))
    columns = _signs("columns", torch.arange(width, device=tensor.device))
    items = tensor.double().transpose(0, 1)
    projected = items @ columns
    whole, sums, norms = (projected * rows).sum(dim=1), projected.sum(dim=1), items.flatten(1).norm(dim=1)
    return zip(whole.tolist(), sums.tolist(), norms.tolist(), strict=True)


def _signs(what: str, positions: torch.Tensor) -> torch.Tensor:
    """Return plus and minus one, float64 [positions, projections]."""
    columns = [uniform(f"trace/{what}/{k}", positions) for k in range(NUM_PROJECTIONS)]
    return torch.stack(columns, dim=1).sub_(0.5).sign_().double()
