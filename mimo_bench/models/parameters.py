"""Parameters of a whole model: those that a rank holds, and those that a checkpoint holds. Arithmetic only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from mimo_bench.layout import LANGUAGE, Grid
from mimo_bench.models.base import EncoderShape, KnownEncoder
from mimo_bench.models.registry import LanguageDecoder
from mimo_bench.models.shape import ModelShape
from mimo_bench.models.table import Parameter, Part, Row, shards_of
from mimo_bench.util import WeightsError

CONVERTED = ({"vision"}, {"audio"})
"""Encoders of the models that `transformers` has: one that sees, one that hears."""


def unknown_modules(shape: ModelShape) -> tuple[str, ...]:
    """Return the modules whose parameters are not listed: those of other packages."""
    if shape.builder is not None:
        return tuple(shape.modules)
    return tuple(name for name, encoder in shape.encoders.items() if not isinstance(encoder, KnownEncoder))


def known_encoder(shape: ModelShape, module: str) -> KnownEncoder:
    """Return an encoder whose parameters are listed; `unknown_modules` has the others."""
    encoder = shape.encoders[module]
    assert isinstance(encoder, KnownEncoder), f"no parameters are known of {encoder}"
    return encoder


def stage_parameters(shape: ModelShape, module: str, grid: Grid, *, stage: int) -> tuple[Parameter, ...]:
    """Return the parameters of one pipeline stage of a module on one of its tensor-parallel ranks.

    Args:
        shape: the model.
        module: its name in the layout.
        grid: its degrees.
        stage: from 0.
    """
    # The span's first rank changes nothing.
    grid = replace(grid, rank_offset=0) if grid.rank_offset else grid
    if module == LANGUAGE:
        return _language_stage(shape.language, grid, stage)
    return _encoder_stage(module, known_encoder(shape, module), shape.language.hidden_size, grid, stage)


def vocab_per_rank(shape: LanguageDecoder, tp: int) -> int:
    """Return the rows of the vocabulary on one tensor-parallel rank, padding included."""
    return -(-shape.vocab_size // tp)


def parameters(shape: ModelShape) -> list[Row]:
    """Return every parameter of a model, in the order of its modules and layers.

    Raises:
        WeightsError: `transformers` has no model of these modules.
    """
    if set(shape.encoders) not in CONVERTED:
        others = sorted(set(shape.encoders) - {"vision"})
        raise WeightsError(f"module {others[0]!r} has no place in a checkpoint of `transformers`; leave it out")
    rows: list[Row] = []
    for module in shape.encoders:
        rows += _encoder_rows(module, known_encoder(shape, module), shape.language.hidden_size)
    return [*rows, *shape.language.rows(LANGUAGE)]


@lru_cache(maxsize=1 << 12)
def _language_stage(shape: LanguageDecoder, grid: Grid, stage: int) -> tuple[Parameter, ...]:
    return tuple(shards_of(tuple(shape.rows(LANGUAGE)), grid, stage=stage, num_layers=shape.num_layers))


@lru_cache(maxsize=1 << 12)
def _encoder_stage(module: str, shape: KnownEncoder, width: int, grid: Grid, stage: int) -> tuple[Parameter, ...]:
    rows = tuple(_encoder_rows(module, shape, width))
    return tuple(shards_of(rows, grid, stage=stage, num_layers=shape.num_layers))


def _encoder_rows(module: str, shape: KnownEncoder, width: int) -> Iterator[Row]:
    yield from shape.rows(module)
    yield from projector_rows(module, shape, width)


def projector_rows(module: str, encoder: EncoderShape, width: int) -> Iterator[Row]:
    """Yield the parameters of a projector: two layers, as wide inside as the language model."""
    into = (("linear_fc1", "linear_1", encoder.output_size, 0), ("linear_fc2", "linear_2", width, 1))
    for ours, theirs, columns, split in into:
        kinds = (("weight", (width, columns)), ("bias", (width,)))
        for kind, dims in kinds if encoder.projector_bias else kinds[:1]:
            yield Row(
                module=module,
                name=f"{module}.projector.{ours}.{kind}",
                shape=dims,
                parts=(Part(component="projector", name=f"{theirs}.{kind}", shape=dims),),
                split=split if kind == "weight" or split == 0 else None,
                is_last=True,
            )
