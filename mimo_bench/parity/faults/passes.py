"""Faults of the forward and backward pass: layers that do not run, rows that go to a wrong place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from megatron.core.transformer.transformer_layer import TransformerLayer

from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext, encoders, replace_attribute
from mimo_bench.trainer import GatherReplicas, MicroBatch, ModelForward, SplitReplica, UnevenBridge, unwrap


@fault(caught_by="gradients")
def bridge_gradient_doubled(context: FaultContext) -> None:
    """The gradient from the bridge reaches the encoder twice as large; the loss hardly shows it."""
    _on_encoder_gradient(context, lambda gradient: gradient * 2)


@fault(caught_by="gradients")
def bridge_gradient_dropped(context: FaultContext) -> None:
    """No gradient comes back over the bridge: the encoder does not train, and the loss falls anyway."""
    _on_encoder_gradient(context, lambda gradient: gradient * 0)


@fault(
    caught_by="crashed",
    modes=("parity", "timing"),
    # Under the distributed optimizer ranks wait for each other, until the hang limit, before one can complain.
    shows_in=lambda site: (
        site.meets_empty_replica
        and site.settings.overlap_grad_reduce
        and site.layout.placement == "colocated"
        and not site.is_sharded
    ),
    alone=True,
)
def encoder_rests_without_images(context: FaultContext) -> None:
    """An encoder replica whose samples have no image does not run, so its gradient hooks never fire."""
    forward = ModelForward.__call__

    def without_blank(model: ModelForward, batch: MicroBatch, **options: Any) -> Any:
        inputs = {name: items for name, items in batch.encoder_inputs.items() if sum(batch.items_per_sample[name])}
        return forward(model, replace(batch, encoder_inputs=inputs), **options)

    replace_attribute(context, ModelForward, "__call__", without_blank)


@fault(
    caught_by="gradients",
    shows_in=lambda site: any(grid.pp > 1 for grid in site.layout.encoders.values()),
)
def encoder_stages_skipped(context: FaultContext) -> None:
    """Stages of an encoder after the first pass their input on, without their layers, as in megatron-core 0.19."""
    for name, module in encoders(context):
        if context.layout.modules[name].coordinate(context.rank).pp:
            for layer in module.modules():
                if isinstance(layer, TransformerLayer):
                    _skip(context, layer)


@fault(
    caught_by="gradients",
    # Between stages of an encoder, transposed activations have a shape that the next stage refuses.
    shows_in=lambda site: all(grid.pp == 1 for grid in site.layout.encoders.values()),
)
def image_patches_dealt_to_other_samples(context: FaultContext) -> None:
    """The encoder gives [patches, images, h] where [images, patches, h] is flattened; the loss is off by 3e-4."""

    def transpose(_: torch.nn.Module, __: Any, features: torch.Tensor) -> torch.Tensor:
        return features.transpose(0, 1).contiguous()

    for _, module in encoders(context):
        hosted: Any = unwrap(module)
        for encoder in hosted.encoders.values():
            context.undo.callback(encoder.register_forward_hook(transpose).remove)


@fault(
    caught_by="gradients",
    shows_in=lambda site: site.has_uneven_items and site.encoder_dp != site.layout.language.dp,
)
def uneven_rows_split_evenly(context: FaultContext) -> None:
    """Rows that cross the bridge between unequal replicas are cut into equal shares, although samples differ in rows.

    A share is cut or padded with zeros to the size that its receiver expects.
    """
    part, join = SplitReplica.forward, GatherReplicas.backward

    def send_evenly(between: UnevenBridge, rows: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
        return [_fit(share, like) for share, like in zip(rows.tensor_split(len(sizes)), rows.split(sizes), strict=True)]

    def part_evenly(ctx: Any, rows: torch.Tensor, parts: list[int], index: int, group: Any) -> torch.Tensor:
        return _fit(rows.tensor_split(len(parts))[index], part(ctx, rows, parts, index, group))

    def join_evenly(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        right, *others = join(ctx, gradient)
        return _fit(gradient.tensor_split(len(ctx.parts))[ctx.index], right), *others

    replace_attribute(context, UnevenBridge, "_parts_to_send", send_evenly)
    replace_attribute(context, SplitReplica, "forward", staticmethod(part_evenly))
    replace_attribute(context, GatherReplicas, "backward", staticmethod(join_evenly))


@fault(caught_by="gradients")
def vision_layer_skipped(context: FaultContext) -> None:
    """The encoder's last layer never runs."""
    for _, module in encoders(context):
        layers = [layer for layer in module.modules() if isinstance(layer, TransformerLayer)]
        _skip(context, layers[-1])


def _fit(share: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    fitted = torch.zeros_like(like)
    size = min(len(share), len(like))
    fitted[:size] = share[:size]
    return fitted


def _on_encoder_gradient(context: FaultContext, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the gradient at the output of the projector."""

    def watch(_: torch.nn.Module, __: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(change)

    for _, module in encoders(context):
        # Inside the data-parallel wrapper: MIMO calls the wrapper's `forward` itself, past the wrapper's hooks.
        context.undo.callback(unwrap(module).register_forward_hook(watch).remove)


def _skip(context: FaultContext, layer: TransformerLayer) -> None:
    replace_attribute(context, layer, "forward", lambda hidden_states, *_, **__: (hidden_states, None))
