"""Parameter tables: one row a parameter, from which sizes, FLOPs, import, export and predictions derive.

A family lists its rows in the order in which its module lists its parameters. The order matters: buffers are laid out
in it, and the distributed optimizer pads between parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from mimo_bench.layout import Grid

Component = Literal["vision_tower", "audio_tower", "projector", "language_model", "lm_head"]
"""Parts of a checkpoint of `transformers`, each with a prefix of its own."""

EMBEDDING: tuple[Component, str] = ("language_model", "embed_tokens.weight")
"""The word embedding, which a tied output layer is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A tensor of `transformers`."""

    component: Component
    name: str
    """Without the component's prefix."""
    shape: tuple[int, ...]

    def spelled(self, spelling: Mapping[Component, str]) -> str:
        """Return the name in a checkpoint that spells its components so."""
        return spelling[self.component] + self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A parameter by its canonical name, with the parts that are stacked in it along the first dim."""

    module: str
    name: str
    shape: tuple[int, ...]
    """Of the full tensor."""
    parts: tuple[Part, ...]
    groups: int = 1
    """Blocks of rows into which each part is cut; block by block: query heads, key and value of each group."""
    split: int | None = None
    """Dim that tensor parallelism shards; None for a parameter that every rank holds whole."""
    layer: int | None = None
    """Index of its layer; None before the first and after the last."""
    is_last: bool = False
    """Whether it comes after the last layer."""
    is_fixed: bool = False
    """Whether it is a table that is never trained."""
    is_padded: bool = False
    """Whether its rows are a vocabulary, padded until tensor parallelism divides it."""
    is_tied: bool = False
    """Whether the output layer is this parameter, too."""
    expert: int | None = None
    """Index of the expert that it belongs to."""

    def block_bytes(self, num_bytes: int) -> int:
        """Return the size of one block of a part that has `num_bytes`."""
        assert num_bytes % self.groups == 0, (self.name, num_bytes)
        return num_bytes // self.groups


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One rank's shard of a parameter."""

    name: str
    """Canonical, without the module."""
    num_elements: int
    num_dims: int
    is_shared: bool = False
    """Whether another pipeline stage holds the same weight; such a parameter gets a bucket of its own."""
    is_fixed: bool = False
    """Whether it is a table that is never trained."""
    has_expert_replicas: bool = False
    """Whether other ranks hold it than hold the rest, as with experts; such parameters get a buffer of their own."""

    @property
    def decays(self) -> bool:
        """True if weight decay applies; the optimizer keeps those that decay apart from the others."""
        return self.num_dims > 1 and not self.name.endswith("bias")


def shards_of(rows: Sequence[Row], grid: Grid, *, stage: int, num_layers: int) -> Iterator[Parameter]:
    """Yield the shards that one tensor-parallel rank of pipeline `stage` holds, counted from 0.

    Args:
        rows: the module's table.
        grid: its degrees.
        stage: the rank's.
        num_layers: of the module.
    """
    last, layers = grid.pp - 1, num_layers // grid.pp
    experts = len({row.expert for row in rows} - {None}) // grid.ep
    tied = [row for row in rows if row.is_tied and grid.pp > 1]
    for row in rows:
        at = row.layer // layers if row.layer is not None else last if row.is_last else 0
        if at == stage and (row.expert is None or row.expert < experts):
            yield _shard(row, grid, is_shared=row in tied)
    if stage == last:
        # The output layer of a later stage is a copy of the embedding.
        yield from (replace(_shard(row, grid, is_shared=True), name="output_layer.weight") for row in tied)


def _shard(row: Row, grid: Grid, *, is_shared: bool) -> Parameter:
    size = math.prod(row.shape)
    # Tensor parallelism leaves an expert whole on its rank.
    if row.is_padded:
        size = -(-row.shape[0] // grid.tp) * math.prod(row.shape[1:])
    elif row.split is not None and row.expert is None:
        size //= grid.tp
    return Parameter(
        name=row.name.removeprefix(f"{row.module}."),
        num_elements=size,
        num_dims=len(row.shape),
        is_shared=is_shared,
        is_fixed=row.is_fixed,
        has_expert_replicas=row.expert is not None and grid.tp * grid.ep > 1,
    )


def attention_layer(
    ours: str,
    *,
    module: str,
    layer: int,
    component: Component,
    theirs: str,
    names: Mapping[str, tuple[str, ...]],
    width: int,
    heads: tuple[int, int, int],
    ffn: tuple[int, ...],
    biased: frozenset[str],
    num_experts: int = 0,
) -> Iterator[Row]:
    """Yield the parameters of a transformer layer.

    Args:
        ours: the layer's canonical name.
        module: the module it is in.
        layer: its index.
        component: the part of a checkpoint that holds it.
        theirs: the layer's name there.
        names: our projections and norms in the order of the module, and the parts of each.
        width: of the residual stream.
        heads: query heads, key-value groups, and the width of one head.
        ffn: rows of each part of an MLP's first projection.
        biased: which of ours have a bias.
        num_experts: experts in place of the MLP; 0 for none.
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
        expert = int(name.split(".")[2]) if name.startswith("mlp.experts.") else None
        for kind in ("weight", "bias") if name in biased else ("weight",):
            beyond = (columns.get(name, width),) if kind == "weight" and not name.endswith("layernorm") else ()
            many = rows.get(name, (width,))
            by_rows = name.endswith(("linear_qkv", "linear_fc1"))
            by_columns = name.endswith(("linear_proj", "linear_fc2")) and kind == "weight"
            yield Row(
                module=module,
                name=f"{ours}.{name}.{kind}",
                shape=(sum(many), *beyond),
                parts=tuple(
                    Part(component=component, name=f"{theirs}.{part}.{kind}", shape=(count, *beyond))
                    for part, count in zip(parts, many, strict=True)
                ),
                groups=groups if name == "self_attention.linear_qkv" else 1,
                split=0 if by_rows else 1 if by_columns else None,
                layer=layer,
                expert=expert,
            )


class _Layers(Protocol):
    @property
    def hidden_size(self) -> int: ...
    @property
    def ffn_hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...


def layer_flops(shape: _Layers, positions: int) -> int:
    """Return the forward operations of an encoder's layers, with full attention over `positions`."""
    h = shape.hidden_size
    projections = positions * 2 * (4 * h * h + 2 * h * shape.ffn_hidden_size)
    attention = 2 * 2 * positions**2 * h
    return shape.num_layers * (projections + attention)


def passes(*, inputs: bool, weights: bool) -> int:
    """Return how often a product of a weight is computed: forward, and for each gradient that is needed."""
    return 1 + inputs + weights
