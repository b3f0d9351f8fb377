"""Interfaces of encoders: what the rest of the bench reads of a shape, whichever family or package it is of."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from mimo_bench.models.table import Row


class EncoderShape(Hashable, Protocol):
    """An encoder that makes a fixed number of tokens of each item it reads."""

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item, such as an image, as the encoder reads it."""
        ...

    @property
    def num_tokens(self) -> int:
        """Language positions that one item takes."""
        ...

    @property
    def output_size(self) -> int:
        """Width of what the projector reads at each of those positions."""
        ...

    @property
    def projector_bias(self) -> bool:
        """True if the projector's two layers have biases."""
        ...

    @property
    def split_over_tp(self) -> Mapping[str, int]:
        """Sizes that tensor parallelism must divide, by a name for messages."""
        ...

    @property
    def num_layers(self) -> int:
        """Layers that run."""
        ...


class EncoderProvider(EncoderShape, Protocol):
    """An encoder of another package: a frozen dataclass, whose fields are its options in a scenario.

    What is read of it beyond `EncoderShape`; its module imports no torch, so that `mimo-bench check` answers at once.
    """

    def flops_per_item(self, *, is_trained: bool) -> int:
        """Return the operations of one item without the projector: forward, and if trained backward, twice that.

        A product of [m, k] and [k, n] is 2 * m * k * n; what is read needs no gradient.
        """
        ...

    def encoder_spec(self, build: Any) -> Any:
        """Return the encoder for one rank, which `build` (a `mimo_bench.models.Build`) describes.

        Returns:
            A ModuleSpec of megatron-core. The module it makes has the attribute `config`, `build.config(...)`, and
            maps `inputs` [items, *item_shape] to [items, tokens, output size].
        """
        ...


@runtime_checkable
class KnownEncoder(EncoderProvider, Protocol):
    """An encoder whose parameters are listed: its memory and communication are predicted, its weights converted."""

    @property
    def num_positions(self) -> int:
        """Positions per item inside the encoder's layers."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def ffn_hidden_size(self) -> int:
        """Width of the MLP."""
        ...

    @property
    def num_attention_heads(self) -> int:
        """Heads of a layer's attention."""
        ...

    @property
    def kept_before_layers(self) -> int:
        """Elements that the parts before the first layer keep for backward, as multiples of positions x hidden size."""
        ...

    def rows(self, module: str) -> Iterator[Row]:
        """Yield every parameter of the encoder, in the order in which its module lists them."""
        ...
