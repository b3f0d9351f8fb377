"""Canonical parameters to those of `transformers`, by a table of its own.

It shares nothing with the rows by which weights are imported and exported: a mistake there shows against it. Renaming
and splitting is linear, so weights and gradients go the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch

from mimo_bench.models.llama.shape import LanguageShape
from mimo_bench.models.shape import ModelShape
from mimo_bench.models.vit.shape import VisionShape

CLASS_TOKEN = "model.vision_tower.embeddings.class_embedding"

_OF_EXPERT = "#"
"""Stands before the number of an expert in the name of a tensor that `transformers` stacks over a layer's experts."""


def to_transformers(shape: ModelShape, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our full tensors, all of a model's or some, under the names and in the shapes of `transformers`.

    Of a layer's experts there must be all or none.
    """
    assert shape.vision is not None, "the referee is LLaVA"
    stacked = {**_vision_names(shape.vision), **_language_names(shape.language)}
    theirs: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        module = shape.vision if name.startswith("vision.") else shape.language
        theirs |= zip(stacked[name], _split(tensor, len(stacked[name]), module), strict=True)
    if CLASS_TOKEN in theirs:
        theirs[CLASS_TOKEN] = theirs[CLASS_TOKEN].flatten()  # ours is [1, 1, h]
    return _with_experts_stacked(theirs)


def _with_experts_stacked(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    experts: defaultdict[str, dict[int, torch.Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if _OF_EXPERT in name:
            whole, _, number = name.partition(_OF_EXPERT)
            experts[whole][int(number)] = tensor
    stacked = {name: torch.stack([parts[k] for k in range(len(parts))]) for name, parts in experts.items()}
    return {name: tensor for name, tensor in tensors.items() if _OF_EXPERT not in name} | stacked


def _split(tensor: torch.Tensor, num_parts: int, shape: VisionShape | LanguageShape) -> Iterable[torch.Tensor]:
    if num_parts < 3:
        return tensor.chunk(num_parts)
    # Rows lie group by group: the queries of the group's heads, its key, its value.
    heads = shape.num_attention_heads // shape.num_query_groups
    grouped = tensor.unflatten(0, (shape.num_query_groups, heads + 2, -1))
    return (part.flatten(0, 2) for part in grouped.split([heads, 1, 1], dim=1))


def _vision_names(shape: VisionShape) -> dict[str, tuple[str, ...]]:
    vit, tower = "vision.encoder.vit", "model.vision_tower"
    projector, theirs = "vision.projector", "model.multi_modal_projector"
    names: dict[str, tuple[str, ...]] = {
        f"{vit}.conv1.weight": (f"{tower}.embeddings.patch_embedding.weight",),
        f"{vit}.position_embeddings.weight": (f"{tower}.embeddings.position_embedding.weight",),
    }
    if shape.family == "clip":
        names[f"{vit}.class_token"] = (CLASS_TOKEN,)
        names |= {f"{vit}.ln_pre.{kind}": (f"{tower}.pre_layrnorm.{kind}",) for kind in ("weight", "bias")}
    else:
        names[f"{vit}.conv1.bias"] = (f"{tower}.embeddings.patch_embedding.bias",)
    parts = {
        "input_layernorm": ("layer_norm1",),
        "self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attention.linear_proj": ("self_attn.out_proj",),
        "pre_mlp_layernorm": ("layer_norm2",),
        "mlp.linear_fc1": ("mlp.fc1",),
        "mlp.linear_fc2": ("mlp.fc2",),
    }
    for kind in ("weight", "bias"):
        names |= _names(projector, theirs, kind, {"linear_fc1": ("linear_1",), "linear_fc2": ("linear_2",)})
        for index in range(shape.num_layers):
            names |= _names(f"{vit}.decoder.layers.{index}", f"{tower}.encoder.layers.{index}", kind, parts)
    return names


def _language_names(shape: LanguageShape) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {
        "language.embedding.word_embeddings.weight": ("model.language_model.embed_tokens.weight",),
        "language.decoder.final_layernorm.weight": ("model.language_model.norm.weight",),
    }
    if not shape.tied_embeddings:
        names["language.output_layer.weight"] = ("lm_head.weight",)
    qkv = {"self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}
    parts: dict[str, tuple[str, ...]] = {
        **qkv,
        "input_layernorm": ("input_layernorm",),
        "self_attention.linear_proj": ("self_attn.o_proj",),
        "pre_mlp_layernorm": ("post_attention_layernorm",),
    }
    if shape.experts is None:
        parts |= {"mlp.linear_fc1": ("mlp.gate_proj", "mlp.up_proj"), "mlp.linear_fc2": ("mlp.down_proj",)}
    else:
        parts |= {"mlp.router": ("mlp.gate",)}
    for index in range(shape.num_layers):
        ours, theirs = f"language.decoder.layers.{index}", f"model.language_model.layers.{index}"
        names |= _names(ours, theirs, "weight", parts)
        if shape.qkv_bias:
            names |= _names(ours, theirs, "bias", qkv)
        for expert in range(0 if shape.experts is None else shape.experts.num_experts):
            for one, stacked in (("linear_fc1", "gate_up_proj"), ("linear_fc2", "down_proj")):
                names[f"{ours}.mlp.experts.{expert}.{one}.weight"] = (
                    f"{theirs}.mlp.experts.{stacked}{_OF_EXPERT}{expert}",
                )
    return names


def _names(ours: str, theirs: str, kind: str, parts: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {f"{ours}.{one}.{kind}": tuple(f"{theirs}.{part}.{kind}" for part in many) for one, many in parts.items()}
