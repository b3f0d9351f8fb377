"""The shape of a whole model: all that the trainer needs to build it, and that decides which layouts fit.

A shape in hand can be built; what cannot is refused by the code that reads shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mimo_bench.layout import LANGUAGE, Layout
from mimo_bench.models.base import EncoderShape
from mimo_bench.models.registry import AudioEncoder, LanguageDecoder, VisionEncoder
from mimo_bench.util import LayoutError, ScenarioError


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """Encoders, each with a two-layer GELU projector, and a language model."""

    vision: VisionEncoder | None = None
    audio: AudioEncoder | None = None
    language: LanguageDecoder

    @property
    def modules(self) -> Mapping[str, EncoderShape | LanguageDecoder]:
        """The modules that a layout places, by their names in a scenario."""
        return {**self.encoders, LANGUAGE: self.language}

    @property
    def encoders(self) -> Mapping[str, EncoderShape]:
        """Every module but the language model."""
        return self.own_encoders()

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The token of each encoder, whose positions are filled by what it makes of an item."""
        return self.own_tokens()

    @property
    def builder(self) -> str | None:
        """The registered name of the function that builds the model; None for our own."""
        return None

    @property
    def foreign(self) -> dict[str, Any]:
        """Encoders of other packages, by module, as JSON."""
        return {}

    def own_encoders(self) -> dict[str, EncoderShape]:
        """Those of the encoders that no other package brings."""
        known: dict[str, EncoderShape | None] = {"vision": self.vision, "audio": self.audio}
        return {name: shape for name, shape in known.items() if shape is not None}

    def own_tokens(self) -> dict[str, int]:
        """Their tokens."""
        known = {"vision": self.language.image_token_id, "audio": self.language.audio_token_id}
        return {name: token for name, token in known.items() if name in self.encoders and token is not None}

    @property
    def num_item_tokens(self) -> int:
        """Language positions that one item of every encoder takes."""
        return sum(shape.num_tokens for shape in self.encoders.values())

    def check_sequence(self, seq_length: int) -> None:
        """Refuse a sequence length that this model cannot take.

        Raises:
            ScenarioError: too long for its positions or its sliding window, or too short for an image and a text.
        """
        if seq_length > (most := self.language.max_sequence_length):
            raise ScenarioError(f"seq_length = {seq_length}: the model takes at most {most}; use a smaller one")
        if (window := self.language.sliding_window) is not None and seq_length > window:
            raise ScenarioError(
                f"seq_length = {seq_length}: beyond the sliding window of {window} positions attention is local, which "
                f"is not built; use at most {window}"
            )
        if seq_length < (least := self.num_item_tokens + 8):
            taken = " and ".join(f"{name} takes {shape.num_tokens}" for name, shape in self.encoders.items())
            raise ScenarioError(
                f"seq_length = {seq_length}: {taken} positions and the text needs 8 more; use at least {least}"
            )

    def check_modules(self, placed: Iterable[str]) -> None:
        """Refuse a layout that does not place every module of this model, or another one.

        Raises:
            LayoutError: naming the module and those of the model.
        """
        placed, modules = set(placed), self.modules
        if missing := sorted(modules.keys() - placed):
            raise LayoutError(f"module {missing[0]!r} has no grid; the model has {' and '.join(modules)}, place each")
        if unknown := sorted(placed - modules.keys()):
            raise LayoutError(
                f"module {unknown[0]!r} is not in the model, which has {' and '.join(modules)}; remove it"
            )

    def check(self, layout: Layout) -> None:
        """Refuse a layout of other modules, or one whose degrees do not divide this model.

        Raises:
            LayoutError: a module is missing or unknown, or a degree does not divide heads, groups, MLP or layers.
        """
        self.check_modules(layout.modules)
        self.check_degrees(layout)

    def check_degrees(self, layout: Layout) -> None:
        """Refuse degrees that do not divide this model; `layout` places its modules.

        Raises:
            LayoutError: a degree does not divide heads, groups, MLP or layers.
        """
        for name, shape in self.modules.items():
            grid = layout.modules[name]
            for what, size in shape.split_over_tp.items():
                _divides(name, "tp", grid.tp, what, size)
            _divides(name, "pp", grid.pp, "layers", shape.num_layers)
        for name in self.encoders:
            _divides(name, "tp", layout.modules[name].tp, "the projector's width", self.language.hidden_size)
        self._check_experts(layout.language.ep)

    def _check_experts(self, ep: int) -> None:
        if self.language.experts is not None:
            _divides(LANGUAGE, "ep", ep, "experts", self.language.experts.num_experts)
        elif ep > 1:
            raise LayoutError(f"{LANGUAGE}.ep = {ep}: this model has no experts to split; use ep = 1")


def _divides(module: str, axis: str, degree: int, what: str, size: int) -> None:
    if size % degree:
        raise LayoutError(f"{module}.{axis} = {degree} does not divide {what} ({size}); use a divisor of {size}")
