"""Encoders of other packages, found by entry point and added to a model. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from mimo_bench.layout import LANGUAGE
from mimo_bench.models.base import EncoderProvider, EncoderShape
from mimo_bench.models.shape import ModelShape
from mimo_bench.util import ScenarioError, choices

GROUP: Final = "mimo_bench.providers"
"""Entry points of this group add encoders: the module's name -> a class that is an `EncoderProvider`."""

OURS: Final = ("vision", "audio", LANGUAGE)


@dataclass(frozen=True, kw_only=True)
class ExtendedShape(ModelShape):
    """A model with encoders of other packages beside its own."""

    others: Mapping[str, EncoderProvider]
    other_tokens: Mapping[str, int]
    """The token of each of them."""

    @property
    def encoders(self) -> Mapping[str, EncoderShape]:
        """Every module but the language model; those of other packages come last."""
        return {**self.own_encoders(), **self.others}

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The token of each encoder."""
        return {**self.own_tokens(), **self.other_tokens}


def extend(shape: ModelShape, *, options: Mapping[str, Mapping[str, Any]], tokens: Mapping[str, int]) -> ModelShape:
    """`shape` with encoders of other packages, by module name; their options, and the token of each.

    Raises:
        ScenarioError: no package provides one, its class is no encoder's, or options or tokens do not fit.
    """
    if not options:
        return shape
    others = {name: _build(name, values) for name, values in options.items()}
    own = {field.name: getattr(shape, field.name) for field in fields(ModelShape)}
    extended = ExtendedShape(**own, others=others, other_tokens=tokens)
    taken = shape.special_tokens
    for name, token in tokens.items():
        if not 2 <= token < shape.language.vocab_size or token in taken.values():
            raise ScenarioError(
                f"encoders.{name}.token_id = {token}: use one of 2 to {shape.language.vocab_size - 1} that no other "
                f"encoder has; taken: {', '.join(f'{token} by {other}' for other, token in taken.items()) or 'none'}"
            )
        taken = {**taken, name: token}
    return extended


def _build(name: str, options: Mapping[str, Any]) -> EncoderProvider:
    provider = _load(_find(name))
    known = [field.name for field in fields(provider)]
    if unknown := sorted(set(options) - set(known)):
        raise ScenarioError(f"encoders.{name}.options.{unknown[0]}: unknown; {choices(unknown[0], known)}")
    try:
        built: EncoderProvider = TypeAdapter(provider).validate_json(json.dumps(dict(options)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("encoders", name, "options", *first["loc"])))
        raise ScenarioError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
    return built


def _find(name: str) -> EntryPoint:
    if name in OURS:
        raise ScenarioError(f"encoders.{name}: {name!r} is the name of a module of our own; register another name")
    registered = entry_points(group=GROUP)
    found = [entry for entry in registered if entry.name == name]
    if not found:
        known = sorted({entry.name for entry in registered})
        remedy = choices(name, known) if known else f"install a package with an entry point of {GROUP}"
        raise ScenarioError(f"encoders.{name}: no installed package provides it; {remedy}")
    if len({entry.value for entry in found}) > 1:
        values = " and ".join(sorted(entry.value for entry in found))
        raise ScenarioError(f"encoders.{name}: two packages provide it, {values}; uninstall one")
    return found[0]


def _load(entry: EntryPoint) -> type[Any]:
    try:
        provider = entry.load()
    except (ImportError, AttributeError) as error:
        raise ScenarioError(f"encoders.{entry.name}: {entry.value} cannot be imported: {error}") from None
    if not hasattr(provider, "encoder_spec"):
        raise ScenarioError(
            f"encoders.{entry.name}: {entry.value} makes no encoder: it has no encoder_spec. megatron-core 0.19 has no "
            "output side, so what generates images or sound cannot be trained; provide an encoder"
        )
    if not (isinstance(provider, type) and is_dataclass(provider)):
        raise ScenarioError(f"encoders.{entry.name}: {entry.value} is no dataclass; make its options the fields of one")
    return provider
