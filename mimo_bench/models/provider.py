"""Encoders and builders of models of other packages, found by entry point. No torch."""

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

BUILDERS: Final = "mimo_bench.models"
"""Entry points of this group build whole models: a name -> a function like `mimo_bench.trainer.build_model`."""

_REPLACED: Final = ("vision", "audio")
"""Encoders of our own, in their order in a model; one of another package may take the place of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """An encoder of another package in a model."""

    provider: str
    """The name that the package registers."""
    options: Mapping[str, Any]
    """Fields of its class."""
    token: int | None
    """The token whose positions its output fills; None for that of the encoder whose place it takes."""


@dataclass(frozen=True, kw_only=True)
class ExtendedShape(ModelShape):
    """A model with encoders of other packages among its own or in place of them, or built by another package."""

    built_by: str | None
    others: Mapping[str, EncoderProvider]
    other_tokens: Mapping[str, int]
    """Tokens of those that take no other's."""

    @property
    def encoders(self) -> Mapping[str, EncoderShape]:
        """Every module but the language model; modules that only other packages have come last."""
        found = {**self.own_encoders(), **self.others}
        return {name: found[name] for name in dict.fromkeys((*_REPLACED, *found)) if name in found}

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The token of each encoder."""
        return {**self.own_tokens(), **self.other_tokens}

    @property
    def builder(self) -> str | None:
        """The registered name of the function that builds the model; None for our own."""
        return self.built_by

    @property
    def foreign(self) -> dict[str, Any]:
        """Class, options and token of each encoder of another package, by module, as JSON."""
        return {
            name: {"class": f"{type(encoder).__module__}.{type(encoder).__qualname__}", "options": _options(encoder)}
            for name, encoder in self.others.items()
        }


def _options(encoder: EncoderProvider) -> Any:
    return TypeAdapter(type(encoder)).dump_python(encoder, mode="json")


def extend(shape: ModelShape, added: Mapping[str, Added], *, provider: str | None) -> ModelShape:
    """Return `shape` with encoders of other packages, by module name, and the name of the function that builds it.

    Raises:
        ScenarioError: no package provides one, its class is no encoder's, or options or tokens do not fit.
    """
    if not added and provider is None:
        return shape
    if provider is not None:
        _find(BUILDERS, provider, where=f"provider: {provider!r}")
    own: dict[str, Any] = {
        field.name: None if field.name in added else getattr(shape, field.name) for field in fields(ModelShape)
    }
    others = {name: _build(name, encoder) for name, encoder in added.items()}
    tokens = dict(shape.special_tokens)
    for name, encoder in added.items():
        tokens[name] = _token(shape, name, encoder, tokens)
    return ExtendedShape(**own, built_by=provider, others=others, other_tokens={name: tokens[name] for name in added})


def load_builder(name: str) -> Any:
    """Return the function of another package that builds a model.

    Raises:
        ScenarioError: no package provides it, or it cannot be imported.
    """
    entry = _find(BUILDERS, name, where=f"provider: {name!r}")
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ScenarioError(f"provider: {entry.value} cannot be imported: {error}") from None


def _token(shape: ModelShape, name: str, encoder: Added, taken: Mapping[str, int]) -> int:
    """Return the token of an encoder, which no other encoder has."""
    if encoder.token is None and name in taken:
        return taken[name]
    if encoder.token is None:
        raise ScenarioError(f"encoders.{name}.token_id is missing; add it")
    others = {other: token for other, token in taken.items() if other != name}
    if not 2 <= encoder.token < shape.language.vocab_size or encoder.token in others.values():
        used = ", ".join(f"{token} by {other}" for other, token in others.items()) or "none"
        raise ScenarioError(
            f"encoders.{name}.token_id = {encoder.token}: use one of 2 to {shape.language.vocab_size - 1} that no "
            f"other encoder has; taken: {used}"
        )
    return encoder.token


def _build(name: str, encoder: Added) -> EncoderProvider:
    where = f"encoders.{name}" if name == encoder.provider else f"encoders.{name}.provider: {encoder.provider!r}"
    if name == LANGUAGE:
        raise ScenarioError(f"{where}: the language model is no encoder; `provider` of the scenario replaces it")
    provider, options = _load(_find(GROUP, encoder.provider, where=where), name), encoder.options
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


def _find(group: str, name: str, *, where: str) -> EntryPoint:
    registered = entry_points(group=group)
    found = [entry for entry in registered if entry.name == name]
    if not found:
        known = sorted({entry.name for entry in registered})
        remedy = choices(name, known) if known else f"install a package with an entry point of {group}"
        if name in _REPLACED:
            remedy = f"name the encoder that takes its place with provider: {remedy}"
        raise ScenarioError(f"{where}: no installed package provides it; {remedy}")
    if len({entry.value for entry in found}) > 1:
        values = " and ".join(sorted(entry.value for entry in found))
        raise ScenarioError(f"{where}: two packages provide it, {values}; uninstall one")
    return found[0]


def _load(entry: EntryPoint, module: str) -> type[Any]:
    try:
        provider = entry.load()
    except (ImportError, AttributeError) as error:
        raise ScenarioError(f"encoders.{module}: {entry.value} cannot be imported: {error}") from None
    if not hasattr(provider, "encoder_spec"):
        raise ScenarioError(
            f"encoders.{module}: {entry.value} makes no encoder: it has no encoder_spec. megatron-core 0.19 has no "
            "output side, so what generates images or sound cannot be trained; provide an encoder"
        )
    if not (isinstance(provider, type) and is_dataclass(provider)):
        raise ScenarioError(f"encoders.{module}: {entry.value} is no dataclass; make its options the fields of one")
    return provider
