"""The whole model of a layout as one rank holds it: a MimoModel whose modules are wrapped for data parallelism."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.mimo.config.base_configs import MimoModelConfig
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.transformer.enums import ModelType
from megatron.core.transformer.transformer_layer import TransformerLayer

from mimo_bench.layout import LANGUAGE, Precision, Settings
from mimo_bench.models import (
    DTYPES,
    Build,
    ModelShape,
    Replica,
    encoder_config,
    encoder_module,
    install_accumulation,
    install_rope,
    install_swiglu,
    language_spec,
    load_builder,
)
from mimo_bench.trainer.topology import Topology


class Provider(Protocol):
    """Builds what one rank holds of a model."""

    def __call__(self, shape: ModelShape, *, topology: Topology, settings: Settings, precision: Precision) -> MimoModel:
        """This rank's modules, on its device, unwrapped and with undefined weights; collective over the world.

        Weights are drawn, or read, by canonical name afterwards.
        """
        ...


def build_model(shape: ModelShape, *, topology: Topology, settings: Settings, precision: Precision) -> MimoModel:
    """This rank's modules, on its device, unwrapped and with undefined weights."""
    if settings.fused_gradient_accumulation:
        install_accumulation()
    if settings.fused_activation:
        install_swiglu()
    install_rope()

    def build(module: str) -> Build:
        return Build(
            module=module,
            layout=topology.layout,
            settings=settings,
            precision=precision,
            pg_collection=topology.groups.get(module),
            is_first_stage=topology.is_first_stage(module),
            is_last_stage=topology.is_last_stage(module),
        )

    language_groups = topology.groups.get(LANGUAGE)
    model = MimoModel(
        MimoModelConfig(
            language_model_spec=language_spec(shape.language, build=build(LANGUAGE)),
            modality_submodules_spec={
                name: encoder_module(encoder, width=shape.language.hidden_size, build=build(name))
                for name, encoder in shape.encoders.items()
            },
            special_token_ids=dict(shape.special_tokens),
            module_to_grid_map=topology.grids,
        ),
        cp_group=language_groups.cp if language_groups else None,
        tp_group=language_groups.tp if language_groups else None,
    )
    # The schedule without pipelining asks for it.
    model.model_type = ModelType.encoder_or_decoder
    for module in dict(hosted_modules(model)).values():
        module.to(device=torch.cuda.current_device(), dtype=DTYPES[precision])
    return model


def provider_of(shape: ModelShape) -> Provider:
    """Return what builds a model of `shape`: `build_model`, or a registered function of another package.

    Raises:
        ScenarioError: the function cannot be imported.
    """
    return build_model if shape.builder is None else load_builder(shape.builder)


def compile_layers(model: MimoModel) -> None:
    """Run the forward pass of every transformer layer through `torch.compile`, the rest stays eager."""
    parts = [part for _, module in hosted_modules(model) for part in module.modules()]
    for layer in parts:
        if isinstance(layer, TransformerLayer):
            # Fixed shapes: or the layers of a second module would turn all into one graph with open shapes.
            layer.forward = torch.compile(layer.forward, dynamic=False)


def hosted_modules(model: MimoModel) -> Iterator[tuple[str, Any]]:
    """The modules this rank holds, by name, wrapped or not."""
    yield from model.modality_submodules.items()
    if model.language_model is not None:
        yield LANGUAGE, model.language_model


def unwrap(module: torch.nn.Module) -> torch.nn.Module:
    """The module inside its data-parallel wrapper."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def wrap_data_parallel(model: MimoModel, *, topology: Topology, settings: Settings) -> None:
    """Give each hosted module its gradient buffers and reduction over its own data-parallel group."""
    for name, module in dict(hosted_modules(model)).items():
        wrapped = Replica(
            config=module.config if name == LANGUAGE else encoder_config(module),
            # A fresh one for each module: the wrapper writes its bucket size into it.
            ddp_config=DistributedDataParallelConfig(
                grad_reduce_in_fp32=True,
                overlap_grad_reduce=settings.overlap_grad_reduce,
                overlap_param_gather=settings.overlap_param_gather,
                use_distributed_optimizer=settings.distributed_optimizer,
            ),
            module=module,
            pg_collection=topology.groups[name],
        )
        if name == LANGUAGE:
            model.language_model = wrapped
        else:
            model.modality_submodules[name] = wrapped
