"""Which of our parameters is made of which tensors of `transformers`: one table for each kind of module.

A row is a canonical parameter, its parts there and how they are stacked. Stacking only moves rows, so one table serves
both ways and any dtype. A new kind of module is a function that yields its rows, and prefixes in `spelling`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mimo_bench.models import AudioShape, EncoderShape, LanguageShape, ModelShape, VisionShape
from mimo_bench.models.hf.spelling import EMBEDDING, Component, Spelling
from mimo_bench.util import WeightsError


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A tensor of `transformers`."""

    component: Component
    name: str
    """Without the component's prefix."""
    shape: tuple[int, ...]

    def spelled(self, spelling: Spelling) -> str:
        """The name in a checkpoint."""
        return spelling[self.component] + self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A canonical parameter and the parts that are stacked in it, along the first dim."""

    module: str
    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    groups: int = 1
    """Parts are cut into so many blocks of rows, and lie block by block: query heads, key and value of each group."""

    def block_bytes(self, num_bytes: int) -> int:
        """The size of one block of a part that has `num_bytes`."""
        assert num_bytes % self.groups == 0, (self.name, num_bytes)
        return num_bytes // self.groups


def parameters(shape: ModelShape) -> list[Parameter]:
    """Every parameter of a model of this shape, in the order of its modules and layers.

    Raises:
        WeightsError: `transformers` has no model of these modules.
    """
    # A LLaVA sees, a Voxtral hears.
    if set(shape.encoders) not in ({"vision"}, {"audio"}):
        others = sorted(set(shape.encoders) - {"vision"})
        raise WeightsError(f"module {others[0]!r} has no place in a checkpoint of a LLaVA; leave it out")
    rows: list[Parameter] = []
    for module, inner in shape.modules.items():
        match inner:
            case VisionShape():
                rows += _vision(module, inner)
                rows += _projector(module, inner, shape.language.hidden_size)
            case AudioShape():
                rows += _audio(module, inner)
                rows += _projector(module, inner, shape.language.hidden_size)
            case LanguageShape():
                rows += _language(module, inner)
    return rows


def _vision(module: str, shape: VisionShape) -> Iterator[Parameter]:
    width, patch, ours = shape.hidden_size, shape.patch_size, "encoder.vit"

    def row(name: str, theirs: str, *dims: int, stored: tuple[int, ...] | None = None) -> Parameter:
        part = Part(component="vision_tower", name=theirs, shape=stored or dims)
        return Parameter(module=module, name=f"{module}.{ours}.{name}", shape=dims, parts=(part,))

    yield row("conv1.weight", "embeddings.patch_embedding.weight", width, 3, patch, patch)
    yield row("position_embeddings.weight", "embeddings.position_embedding.weight", shape.num_positions, width)
    if shape.family == "clip":
        yield row("class_token", "embeddings.class_embedding", 1, 1, width, stored=(width,))
        for kind in ("weight", "bias"):
            yield row(f"ln_pre.{kind}", f"pre_layrnorm.{kind}", width)
    else:
        yield row("conv1.bias", "embeddings.patch_embedding.bias", width)
    for index in range(shape.num_layers):
        yield from _layer(
            f"{module}.{ours}.decoder.layers.{index}",
            module=module,
            component="vision_tower",
            theirs=f"encoder.layers.{index}",
            names=_VIT_NAMES,
            width=width,
            heads=(shape.num_attention_heads, shape.num_query_groups, width // shape.num_attention_heads),
            ffn=(shape.ffn_hidden_size,),
            biased=frozenset(_VIT_NAMES),
        )


def _audio(module: str, shape: AudioShape) -> Iterator[Parameter]:
    width, ours = shape.hidden_size, f"{module}.encoder"

    def row(name: str, *theirs: str, dims: tuple[int, ...], groups: int = 1) -> Parameter:
        parts = tuple(Part(component="audio_tower", name=part, shape=dims) for part in theirs)
        whole = (dims[0] * len(parts), *dims[1:])
        return Parameter(module=module, name=f"{ours}.{name}", shape=whole, parts=parts, groups=groups)

    for name, into in (("conv1", shape.num_mels), ("conv2", width)):
        yield row(f"{name}.weight", f"{name}.weight", dims=(width, into, 3))
        yield row(f"{name}.bias", f"{name}.bias", dims=(width,))
    yield row("embed_positions", "embed_positions.weight", dims=(shape.num_positions, width))
    for index in range(shape.num_layers):
        layer, attention = f"decoder.layers.{index}", f"layers.{index}.self_attn"
        yield from _layer(
            f"{ours}.{layer}",
            module=module,
            component="audio_tower",
            theirs=f"layers.{index}",
            names=_WHISPER_NAMES,
            width=width,
            heads=(shape.num_attention_heads,) * 2 + (width // shape.num_attention_heads,),
            ffn=(shape.ffn_hidden_size,),
            biased=frozenset(_WHISPER_NAMES) - {"self_attention.linear_qkv"},
        )
        # Keys have none: query and value, head by head.
        yield row(
            f"{layer}.self_attention.linear_qkv.query_value_bias",
            f"{attention}.q_proj.bias",
            f"{attention}.v_proj.bias",
            dims=(width,),
            groups=shape.num_attention_heads,
        )
    for kind in ("weight", "bias"):
        yield row(f"decoder.final_layernorm.{kind}", f"layer_norm.{kind}", dims=(width,))


def _projector(module: str, encoder: EncoderShape, width: int) -> Iterator[Parameter]:
    for ours, theirs, into in (("linear_fc1", "linear_1", encoder.output_size), ("linear_fc2", "linear_2", width)):
        kinds = (("weight", (width, into)), ("bias", (width,)))
        for kind, dims in kinds if encoder.projector_bias else kinds[:1]:
            part = Part(component="projector", name=f"{theirs}.{kind}", shape=dims)
            yield Parameter(module=module, name=f"{module}.projector.{ours}.{kind}", shape=dims, parts=(part,))


def _language(module: str, shape: LanguageShape) -> Iterator[Parameter]:
    table = (shape.vocab_size, shape.hidden_size)

    def row(name: str, component: Component, theirs: str, dims: tuple[int, ...]) -> Parameter:
        part = Part(component=component, name=theirs, shape=dims)
        return Parameter(module=module, name=f"{module}.{name}", shape=dims, parts=(part,))

    num_experts = 0 if shape.experts is None else shape.experts.num_experts
    yield row("embedding.word_embeddings.weight", *EMBEDDING, table)
    for index in range(shape.num_layers):
        yield from _layer(
            f"{module}.decoder.layers.{index}",
            module=module,
            component="language_model",
            theirs=f"layers.{index}",
            names=_mixtral_names(num_experts) if num_experts else _LLAMA_NAMES,
            width=shape.hidden_size,
            heads=(shape.num_attention_heads, shape.num_query_groups, shape.head_size),
            ffn=(shape.ffn_hidden_size, shape.ffn_hidden_size),
            biased=frozenset({"self_attention.linear_qkv"} if shape.qkv_bias else ()),
            num_experts=num_experts,
        )
    yield row("decoder.final_layernorm.weight", "language_model", "norm.weight", (shape.hidden_size,))
    if not shape.tied_embeddings:
        yield row("output_layer.weight", "lm_head", "weight", table)


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_VIT_NAMES = {
    "input_layernorm": ("layer_norm1",),
    "self_attention.linear_qkv": _QKV,
    "self_attention.linear_proj": ("self_attn.out_proj",),
    "pre_mlp_layernorm": ("layer_norm2",),
    "mlp.linear_fc1": ("mlp.fc1",),
    "mlp.linear_fc2": ("mlp.fc2",),
}
_WHISPER_NAMES = {
    "input_layernorm": ("self_attn_layer_norm",),
    "self_attention.linear_qkv": _QKV,
    "self_attention.linear_proj": ("self_attn.out_proj",),
    "pre_mlp_layernorm": ("final_layer_norm",),
    "mlp.linear_fc1": ("fc1",),
    "mlp.linear_fc2": ("fc2",),
}
_LLAMA_ATTENTION = {
    "input_layernorm": ("input_layernorm",),
    "self_attention.linear_qkv": _QKV,
    "self_attention.linear_proj": ("self_attn.o_proj",),
    "pre_mlp_layernorm": ("post_attention_layernorm",),
}
_LLAMA_NAMES = _LLAMA_ATTENTION | {
    "mlp.linear_fc1": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.linear_fc2": ("mlp.down_proj",),
}


def _mixtral_names(num_experts: int) -> dict[str, tuple[str, ...]]:
    """The same where experts stand instead of the MLP, each in tensors of its own, as checkpoints hold them."""
    names = _LLAMA_ATTENTION | {"mlp.router": ("block_sparse_moe.gate",)}
    for expert in range(num_experts):
        ours, theirs = f"mlp.experts.{expert}", f"block_sparse_moe.experts.{expert}"
        names[f"{ours}.linear_fc1"] = (f"{theirs}.w1", f"{theirs}.w3")
        names[f"{ours}.linear_fc2"] = (f"{theirs}.w2",)
    return names


def _layer(
    ours: str,
    *,
    module: str,
    component: Component,
    theirs: str,
    names: dict[str, tuple[str, ...]],
    width: int,
    heads: tuple[int, int, int],
    ffn: tuple[int, ...],
    biased: frozenset[str],
    num_experts: int = 0,
) -> Iterator[Parameter]:
    """The parameters of a transformer layer.

    Args:
        ours: the layer's canonical name.
        module: the module it is in.
        component: where its parts lie.
        theirs: the layer's name there.
        names: our projections and norms, and the parts of each.
        width: of the residual stream.
        heads: query heads, key-value groups, and the width of one head.
        ffn: rows of each part of an MLP's first projection.
        biased: which of ours have a bias.
        num_experts: that stand instead of the MLP; 0 for none.
    """
    queries, groups, head = heads
    rows = {
        "self_attention.linear_qkv": (queries * head, groups * head, groups * head),
        "mlp.router": (num_experts,),
        **{name: ffn for name in names if name.endswith(".linear_fc1")},
    }
    columns = {
        "self_attention.linear_proj": queries * head,
        **{name: ffn[0] for name in names if name.endswith(".linear_fc2")},
    }
    for name, parts in names.items():
        for kind in ("weight", "bias") if name in biased else ("weight",):
            beyond = (columns.get(name, width),) if kind == "weight" and not name.endswith("layernorm") else ()
            many = rows.get(name, (width,))
            yield Parameter(
                module=module,
                name=f"{ours}.{name}.{kind}",
                shape=(sum(many), *beyond),
                parts=tuple(
                    Part(component=component, name=f"{theirs}.{part}.{kind}", shape=(count, *beyond))
                    for part, count in zip(parts, many, strict=True)
                ),
                groups=groups if name == "self_attention.linear_qkv" else 1,
            )
