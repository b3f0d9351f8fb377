"""Known faults, each planted at run time in one place, so that the gate can prove that it catches them.

A fault is a callable `plant(context)`, called in every rank of the layout under test after the trainer is built and
before its first step.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from megatron.core.pipeline_parallel.bridge_communicator import BridgeCommunicator
from megatron.core.transformer.transformer_layer import TransformerLayer

from mimo_bench.layout import LANGUAGE, Layout
from mimo_bench.trainer.data.sample import Split, Text
from mimo_bench.trainer.models.mimo import hosted_modules, unwrap
from mimo_bench.trainer.trainer import Trainer
from mimo_bench.trainer.weights import Shard, draw_weights, shards

_MORE_THAN_ANY_DEVICE = 1 << 50

DAWDLE_SECONDS = 0.2
"""What a slow rank loses in each micro-batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultContext:
    """Where a fault is planted."""

    trainer: Trainer
    layout: Layout
    rank: int
    undo: ExitStack
    """Closed after the last step; what a fault enters here is taken back then."""


def bridge_gradient_doubled(context: FaultContext) -> None:
    """The gradient that comes back over the bridge reaches the encoder twice as large; the loss hardly shows it."""
    _on_encoder_gradient(context, lambda gradient: gradient * 2)


def bridge_gradient_dropped(context: FaultContext) -> None:
    """No gradient comes back over the bridge: the encoder stands still and the loss falls anyway."""
    _on_encoder_gradient(context, lambda gradient: gradient * 0)


def encoder_gradient_scaled_by_dp_ratio(context: FaultContext) -> None:
    """Each module takes a mean over its own replicas, so the encoder's gradient is off by the ratio of degrees."""
    for name, module in _encoders(context):
        ratio = context.layout.language.dp / context.layout.modules[name].dp
        scale = module.scale_gradients
        replace_attribute(context, module, "scale_gradients", partial(_scale_twice, scale, ratio))


def encoder_gradient_not_normalised(context: FaultContext) -> None:
    """The encoder's gradient stays a sum over answer tokens while the language model's becomes a mean."""
    for _, module in _encoders(context):
        replace_attribute(context, module, "scale_gradients", lambda _: None)


def clipped_by_own_norm(context: FaultContext) -> None:
    """Each rank clips by the gradient norm of its first module instead of the whole model's; Adam hardly shows it."""
    optimizer = context.trainer.optimizer
    trained, hosted = list(optimizer.learning_rates), dict(hosted_modules(context.trainer.model))
    if own := [index for index, name in enumerate(trained) if name in hosted]:
        clip = optimizer._clip
        replace_attribute(context, optimizer, "_clip", lambda _: clip(optimizer._norms[own[0]]))


def encoder_epsilon_of_another_optimizer(context: FaultContext) -> None:
    """The encoder's Adam divides by a root with 1e-5 beside it, a hundred to a thousand times what was asked for."""
    _on_encoder_optimizer(context, lambda group: group.update(eps=1e-5))


def encoder_learning_rate_doubled(context: FaultContext) -> None:
    """The encoder learns twice as fast as it was told."""
    optimizer = context.trainer.optimizer
    set_rates = optimizer._set_rates

    def double() -> None:
        set_rates()
        _on_encoder_optimizer(context, lambda group: group.update(lr=2 * group["lr"]))

    replace_attribute(context, optimizer, "_set_rates", double)


def encoder_weights_not_decayed(context: FaultContext) -> None:
    """The encoder's optimizer never heard of weight decay."""
    _on_encoder_optimizer(context, lambda group: group.update(weight_decay=0.0))


def encoder_stages_skipped(context: FaultContext) -> None:
    """Stages of an encoder behind its first hand on what they get, past their layers, as in megatron-core 0.19."""
    for name, module in _encoders(context):
        if context.layout.modules[name].coordinate(context.rank).pp:
            for layer in module.modules():
                if isinstance(layer, TransformerLayer):
                    replace_attribute(context, layer, "forward", lambda hidden_states, *_, **__: (hidden_states, None))


def encoder_fed_other_samples(context: FaultContext) -> None:
    """The encoder's loader is one sample ahead of the language model's."""
    plan = context.trainer.loader.plan

    def ahead(**where: Any) -> range:
        ids = plan.sample_ids(**where)
        return ids if where["module"] == LANGUAGE else range(ids.start + 1, ids.stop + 1)

    shifted = SimpleNamespace(num_micro_batches=plan.num_micro_batches, sample_ids=ahead)
    replace_attribute(context, context.trainer.loader, "plan", shifted)


def encoder_reads_other_pixels(context: FaultContext) -> None:
    """Sample ids are right everywhere, and what encoders read for them belongs to the sample behind."""
    dataset = context.trainer.loader.dataset

    def behind(module: str, split: Split, sample_id: int, device: torch.device) -> torch.Tensor:
        return dataset.encoder_inputs(module, split, sample_id + 1, device)

    _replace_dataset(context, encoder_inputs=behind)


def gradient_of_one_slice_lost(context: FaultContext) -> None:
    """The last tensor-parallel rank of the language model never gets a gradient for what it alone holds."""

    def drop(shard: Shard) -> None:
        if shard.dim is not None and shard.tp_group.rank() == shard.tp_group.size() - 1:
            shard.parameter.main_grad.zero_()  # type: ignore[attr-defined]  # megatron-core's mark

    _on_finished_gradients(context, LANGUAGE, drop)


def gradient_of_one_stage_doubled(context: FaultContext) -> None:
    """The first stage of the language model's pipeline counts each micro-batch twice."""

    def double(shard: Shard) -> None:
        if context.trainer.topology.is_first_stage(LANGUAGE):
            shard.parameter.main_grad.mul_(2.0)  # type: ignore[attr-defined]  # megatron-core's mark

    _on_finished_gradients(context, LANGUAGE, double)


def loss_mask_shifted(context: FaultContext) -> None:
    """The loss scores each answer one position too early: labels are shifted twice."""
    dataset = context.trainer.loader.dataset

    def text(split: Split, sample_id: int) -> Text:
        right = dataset.text(split, sample_id)
        return replace(right, is_answer=right.is_answer.roll(-1))

    _replace_dataset(context, text=text)


def micro_batches_averaged(context: FaultContext) -> None:
    """The encoder's gradient is a mean over micro-batches, the language model's a sum."""
    for _, module in _encoders(context):
        ratio = 1 / context.trainer.config.plan.num_micro_batches
        replace_attribute(context, module, "scale_gradients", partial(_scale_twice, module.scale_gradients, ratio))


def image_patches_dealt_to_other_samples(context: FaultContext) -> None:
    """The encoder gives [patches, images, h] where [images, patches, h] is flattened; the loss is off by 3e-4."""

    def transpose(_: torch.nn.Module, __: Any, features: torch.Tensor) -> torch.Tensor:
        return features.transpose(0, 1).contiguous()

    for _, module in _encoders(context):
        hosted: Any = unwrap(module)
        for encoder in hosted.encoders.values():
            context.undo.callback(encoder.register_forward_hook(transpose).remove)


def layer_norm_gradients_not_reduced(context: FaultContext) -> None:
    """Under sequence parallelism each rank keeps the norm gradients of its own part of the sequence."""
    # The package exports a function under its module's name, which hides the module from a plain import.
    finalisation = import_module("megatron.core.distributed.finalize_model_grads")
    replace_attribute(context, finalisation, "_allreduce_non_tensor_model_parallel_grads", lambda *_, **__: None)


def local_token_count(context: FaultContext) -> None:
    """Each language replica divides by its own number of answer tokens, times the number of replicas."""
    totals, replicas = context.trainer.totals, context.layout.language.dp
    reduce = totals.reduce
    own: list[float] = []

    def remember() -> None:
        own[:] = [totals.read()["scored_tokens"] * replicas]
        reduce()

    replace_attribute(context, totals, "reduce", remember)
    if (module := dict(hosted_modules(context.trainer.model)).get(LANGUAGE)) is not None:
        scale = module.scale_gradients
        # Only ranks that have counted have a number of their own to divide by.
        replace_attribute(context, module, "scale_gradients", lambda by: scale(1 / own[0] if own[0] else by))


def replica_reduction_skipped(context: FaultContext) -> None:
    """The encoder's replicas never sum their gradients, and drift apart."""
    for _, module in _encoders(context):
        replace_attribute(context, module, "finish_grad_sync", lambda **_: None)


def vision_layer_skipped(context: FaultContext) -> None:
    """The encoder's last layer never runs."""
    for _, module in _encoders(context):
        layers = [layer for layer in module.modules() if isinstance(layer, TransformerLayer)]
        replace_attribute(context, layers[-1], "forward", lambda hidden_states, *_, **__: (hidden_states, None))


def weights_drawn_by_shard(context: FaultContext) -> None:
    """Every tensor-parallel rank draws its slice as if it were the whole tensor."""

    def as_if_whole(shard: Shard) -> torch.Tensor:
        return torch.arange(shard.parameter.numel(), device=shard.parameter.device).view(shard.parameter.shape)

    replace_attribute(context, Shard, "positions", as_if_whole)
    _draw(context, seed=context.trainer.config.seed)


def weights_of_another_seed(context: FaultContext) -> None:
    """The seed that was declared is not the one that is used."""
    _draw(context, seed=context.trainer.config.seed + 1)


def kill_rank(context: FaultContext) -> None:
    """The last rank dies without a word when it runs its first module, as under the kernel's out-of-memory killer."""
    _on_first_forward(context, lambda: os.kill(os.getpid(), signal.SIGKILL))


def hang_rank(context: FaultContext) -> None:
    """The last rank stops for good when it runs its first module, and all others wait for it."""

    def sleep() -> None:
        while True:
            time.sleep(3600)

    _on_first_forward(context, sleep)


def slow_rank(context: FaultContext) -> None:
    """The last rank dawdles before every forward pass: every number stays right, only the step takes longer."""
    if context.rank == context.layout.world_size - 1:
        _, module = next(hosted_modules(context.trainer.model))
        handle = unwrap(module).register_forward_pre_hook(lambda *_: time.sleep(DAWDLE_SECONDS))
        context.undo.callback(handle.remove)


def bridge_bytes_doubled(context: FaultContext) -> None:
    """Everything that crosses the bridge between disjoint modules crosses it twice; every number stays right."""
    sends, receives = ("send_forward", "send_backward"), ("recv_forward", "recv_backward")
    for name in (*sends, *receives, "send_forward_recv_backward", "send_backward_recv_forward"):
        _twice(context, name)


def _twice(context: FaultContext, name: str) -> None:
    method = getattr(BridgeCommunicator, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        method(*args, **kwargs)
        return method(*args, **kwargs)

    replace_attribute(context, BridgeCommunicator, name, call)


def exhaust_memory(context: FaultContext) -> None:
    """The last rank asks for more memory than any device has when it runs its first module."""

    def allocate() -> None:
        if not torch.cuda.is_available():
            # A CPU would promise the memory and kill whoever touches it.
            raise MemoryError(f"{_MORE_THAN_ANY_DEVICE} bytes")
        torch.empty(_MORE_THAN_ANY_DEVICE, dtype=torch.uint8, device=torch.cuda.current_device())

    _on_first_forward(context, allocate)


def _encoders(context: FaultContext) -> list[tuple[str, Any]]:
    """The encoders that this rank hosts, by name, in their data-parallel wrappers."""
    return [(name, module) for name, module in hosted_modules(context.trainer.model) if name != LANGUAGE]


def _on_encoder_optimizer(context: FaultContext, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the encoders' optimizers are told; they are thrown away with the trainer."""
    for name, _ in _encoders(context):
        optimizer = context.trainer.optimizer.module_infos[name].optimizer
        for group in optimizer.param_groups:
            change(group)


def _on_finished_gradients(context: FaultContext, module: str, change: Callable[[Shard], None]) -> None:
    """Change the gradients of a hosted module once they are reduced and normalised."""
    trainer = context.trainer
    finish = trainer.model.config.finalize_model_grads_func

    def finish_and_change(*args: Any, **kwargs: Any) -> None:
        finish(*args, **kwargs)
        for shard in shards(trainer.model, trainer.topology):
            if shard.module == module:
                change(shard)

    replace_attribute(context, trainer.model.config, "finalize_model_grads_func", finish_and_change)


def _on_encoder_gradient(context: FaultContext, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change what comes back to the end of the projector."""

    def watch(_: torch.nn.Module, __: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(change)

    for _, module in _encoders(context):
        # Inside the data-parallel wrapper: MIMO calls the wrapper's `forward` itself, past the wrapper's hooks.
        context.undo.callback(unwrap(module).register_forward_hook(watch).remove)


def _scale_twice(scale: Callable[[Any], None], ratio: float, by: Any) -> None:
    scale(by * ratio)


def _replace_dataset(context: FaultContext, **changes: Any) -> None:
    """Read samples through `changes`, by the name of the dataset's method."""
    dataset = context.trainer.loader.dataset
    methods = {name: getattr(dataset, name) for name in ("num_items", "encoder_inputs", "text")}
    replace_attribute(context, context.trainer.loader, "dataset", SimpleNamespace(**{**methods, **changes}))


def _draw(context: FaultContext, *, seed: int) -> None:
    draw_weights(context.trainer.model, context.trainer.topology, seed=seed)
    # Master weights were copied before.
    context.trainer.optimizer.reload_model_params()


def replace_attribute(context: FaultContext, target: Any, name: str, value: Any) -> None:
    """Put `value` in the place of an attribute until the fault is undone."""
    # Frozen values refuse plain assignment; a planted fault is the one that may.
    put = setattr if isinstance(target, type | ModuleType) else object.__setattr__
    context.undo.callback(put, target, name, getattr(target, name))
    put(target, name, value)


def _on_first_forward(context: FaultContext, act: Any) -> None:
    if context.rank != context.layout.world_size - 1:
        return
    _, module = next(hosted_modules(context.trainer.model))
    handle = unwrap(module).register_forward_pre_hook(lambda *_: act())
    context.undo.callback(handle.remove)
