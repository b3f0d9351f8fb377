"""Tables of a scenario file, and checks across them.

A scenario in hand is a valid one: its layouts fit their world, the model and the batch. Everything that integers
can decide is decided here, before any process starts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from mimo_bench.data import FILLED_IN, Data, SyntheticData
from mimo_bench.layout import BatchPlan, Layout, LayoutTable, Precision, Settings, refuse_fp16
from mimo_bench.models import PRESETS, Added, ModelShape, extend
from mimo_bench.scenario.training import Training
from mimo_bench.util import LayoutError, NonNegativeInt, PositiveInt, ScenarioError, Share, Table, choices


class EncoderTable(Table):
    """An encoder that another package provides through the entry-point group `mimo_bench.providers`."""

    provider: Annotated[str | None, Field(exclude_if=lambda provider: provider is None)] = None
    """The name that the package registers; by default that of the table."""
    token_id: PositiveInt | None = None
    """The token whose positions its output fills; by default that of the encoder whose place it takes."""
    options: Mapping[str, Any] = {}
    """Fields of the provider's class."""


class Steps(Table):
    """Optimizer steps of each mode."""

    parity: Annotated[int, Field(ge=2)] = 5
    """Steps whose losses and gradient norms are compared with the baseline; at least two."""
    learning: NonNegativeInt = 0
    """Further steps after the parity steps, before the held-out evaluation; for scenarios that must learn a task."""
    warmup: NonNegativeInt = 3
    """Steps before the timed window."""
    timed: PositiveInt = 10
    """Steps in the timed window."""

    @field_validator("parity", mode="before")
    @classmethod
    def _refuse_one_step(cls, parity: Any) -> Any:
        if type(parity) is int and parity == 1:
            raise ValueError(
                "a single step shows nothing of learning rates and of Adam's moments, which are compared with the "
                "baseline's after the second; use 2 or more, or leave it out for 5"
            )
        return parity

    @property
    def num_as_timed(self) -> int:
        """Steps as timed that are compared with the baseline: those of the parity run, as far as a timed run goes."""
        return min(self.parity, self.warmup + self.timed)


class LoaderTable(Table):
    """Background threads that make batches; they do not change which samples are read."""

    num_workers: PositiveInt = 2
    """Threads on every rank that make batches."""
    num_ahead: PositiveInt = 2
    """Global batches that are made ahead."""
    num_watched_steps: NonNegativeInt = 3
    """Steps after the timed window that the loader feeds as in a training run, to measure its cost."""


class Evaluation(Table):
    """Held-out evaluation after training; the same samples in every layout."""

    num_batches: NonNegativeInt = 1
    """Global batches of held-out samples; 0 switches evaluation off."""
    min_answer_accuracy: Share | None = None
    """The share of answer tokens that a trained model must get right; null asks for none."""


class StoredContent(Table):
    """The weights that a scenario starts from."""

    content_hash: str
    """SHA-256 over those of the modules' files, as they were written."""
    directory: Annotated[str | None, Field(exclude=True)] = None
    """Where they were found; no part of what is recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutCase:
    """One layout of a scenario, resolved: what a launch, a prediction or a verdict needs to know of it."""

    table: LayoutTable
    layout: Layout
    plan: BatchPlan
    is_baseline: bool

    @property
    def name(self) -> str:
        """Name in the scenario; a folder's name in the record."""
        return self.table.name

    @property
    def settings(self) -> Settings:
        """Settings as declared."""
        return self.table.settings

    @property
    def world_size(self) -> int:
        """Ranks that it needs."""
        return self.layout.world_size


class Scenario(Table):
    """One controlled experiment: only the layout varies."""

    question: Annotated[str, Field(min_length=1)]
    model: str
    """A preset's name, or the path of a config.json that `transformers` wrote: next to the scenario, or from here."""
    configured: Annotated[ModelShape | None, SkipJsonSchema(), Field(exclude_if=lambda shape: shape is None)] = None
    # What the config.json says. Read with the scenario and kept in it: so ranks, hash and record all hold the same.
    encoders: Mapping[str, EncoderTable] = {}
    """Encoders of other packages, by module name; `vision` and `audio` take the place of the model's own."""
    provider: Annotated[str | None, Field(exclude_if=lambda provider: provider is None)] = None
    """A function of another package that builds the model, by the name that it is registered by."""
    weights: Annotated[str | None, Field(exclude_if=lambda weights: weights is None)] = None
    """A directory that `mimo-bench import` made, next to the scenario or from here; otherwise the seed draws them."""
    stored: Annotated[StoredContent | None, SkipJsonSchema(), Field(exclude_if=lambda stored: stored is None)] = None
    # Content hash of the weights: part of the record and of the scenario's own hash.
    data: Data = SyntheticData()
    """A provider's name, or a table that names it and its options."""
    seed: NonNegativeInt = 0
    global_batch_size: PositiveInt
    """Samples per optimizer step, the same in every layout."""
    global_micro_batch_size: PositiveInt
    """Samples per micro-batch over all replicas; a layout may override it."""
    seq_length: Annotated[int, Field(ge=8)]
    precision: Precision = "fp32"
    """Of the timed steps; parity always trains in fp32."""
    baseline: str
    loader: LoaderTable = LoaderTable()
    steps: Steps = Steps()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    # Not min_length: pydantic counts only valid items, and would say of two wrong layouts that there is none.
    layout: Annotated[tuple[LayoutTable, ...], Field(strict=False, json_schema_extra={"minItems": 1})]
    """At least one; the baseline is one of them."""

    @field_validator("precision", mode="before")
    @classmethod
    def _refuse_fp16(cls, precision: Any) -> Any:
        refuse_fp16(precision)
        return precision

    @property
    def shape(self) -> ModelShape:
        """The model's shape.

        Raises:
            ScenarioError: an encoder of another package cannot be had.
        """
        return self._shape

    @cached_property
    def _shape(self) -> ModelShape:
        return extend(
            PRESETS[self.model] if self.configured is None else self.configured,
            {
                name: Added(provider=table.provider or name, options=table.options, token=table.token_id)
                for name, table in self.encoders.items()
            },
            provider=self.provider,
        )

    @property
    def weights_directory(self) -> str | None:
        """Directory of the starting weights; None if the seed draws them."""
        return None if self.stored is None else self.stored.directory

    @property
    def training_for_parity(self) -> Training:
        """Optimizer of parity mode, whose weight decay is large enough to be seen."""
        return self.training.for_parity(modules=self.shape.modules, num_steps=self.steps.parity)

    @property
    def names(self) -> tuple[str, ...]:
        """Layout names, in the order of the file."""
        return tuple(table.name for table in self.layout)

    @property
    def content_hash(self) -> str:
        """SHA-256 of what the scenario says, independent of how the file spells it."""
        return hash_of_content(self.model_dump(mode="json"))

    @cached_property
    def _tables(self) -> dict[str, LayoutTable]:
        return {table.name: table for table in self.layout}

    def table(self, name: str) -> LayoutTable:
        """The layout called `name`.

        Raises:
            ScenarioError: there is none.
        """
        if (table := self._tables.get(name)) is None:
            raise ScenarioError(f"no layout is called {name!r}; {choices(name, self.names)}")
        return table

    def case(self, name: str) -> LayoutCase:
        """Return the layout called `name`, resolved.

        Raises:
            ScenarioError: there is none.
        """
        table = self.table(name)
        layout = table.grids()
        return LayoutCase(
            table=table, layout=layout, plan=self.plan_of(table, layout), is_baseline=name == self.baseline
        )

    def plan_of(self, table: LayoutTable, layout: Layout) -> BatchPlan:
        """Return how `layout`, which `table` declares, splits a global batch."""
        override = table.global_micro_batch_size
        return BatchPlan.of(
            layout,
            global_batch_size=self.global_batch_size,
            global_micro_batch_size=self.global_micro_batch_size if override is None else override,
        )

    def check(self) -> None:
        """Refuse what no field alone can show wrong, each problem on a line of the message.

        Raises:
            ScenarioError: model, baseline or sequence do not fit.
            LayoutError: layouts cannot be trained; the message names them.
        """
        if self.model not in PRESETS and self.configured is None:
            remedy = choices(self.model, sorted(PRESETS))
            raise ScenarioError(f"model: {self.model!r} is not known; {remedy}, or the path of a config.json")
        if (self.weights is None) != (self.stored is None):
            raise ScenarioError(f"weights: {self.weights!r} was not read; load the scenario from its file")
        if not self.layout:
            raise ScenarioError("layout: holds none; write [[layout]] and at least the baseline below it")
        if repeated := [name for name, times in Counter(self.names).items() if times > 1]:
            raise ScenarioError(f"layout: the name {repeated[0]!r} is used twice; give each layout its own")
        if self.baseline not in self._tables:
            raise ScenarioError(f"baseline: {self.baseline!r} is no layout; {choices(self.baseline, self.names)}")
        problems: list[ScenarioError] = []
        for check in (
            partial(self.shape.check_sequence, self.seq_length),
            self._check_training,
            partial(self.data.check, self.shape, seq_length=self.seq_length),
        ):
            try:
                check()
            except ScenarioError as error:
                problems.append(error)
        for table in self.layout:
            try:
                self._check_layout(table)
            except LayoutError as error:
                problems.append(LayoutError(f"layout {table.name!r}: {error}"))
        if problems:
            raise type(problems[0])("\n".join(map(str, problems)))

    def _check_training(self) -> None:
        self.training.check(modules=tuple(self.shape.modules))
        self.training.refuse_rates_of_zero(modules=self.shape.modules)

    def _check_layout(self, table: LayoutTable) -> None:
        # Before the spans: a module that is missing leaves a gap, which is not what has to be mended.
        self.shape.check_modules(table.modules)
        layout = table.grids()
        self.shape.check_degrees(layout)
        self.plan_of(table, layout)
        if table.name == self.baseline and layout.placement != "colocated":
            raise LayoutError("the baseline is disjoint; name a colocated layout as baseline")
        table.settings.check(
            layout,
            has_experts=self.shape.language.experts is not None,
            precision=self.precision,
            seq_length=self.seq_length,
            counts_vary=self.data.counts_vary,
        )


_KNOWN_BY = {"model": "configured", "weights": "stored"}
"""Keys that may hold a path, and the key that holds what was read there."""


def without_places(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scenario as JSON without the paths of its files and the counts in them."""
    kept = {key: value for key, value in content.items() if content.get(_KNOWN_BY.get(key, "")) is None}
    return _without_place_of_data(kept)


def shared_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a scenario as JSON that every layout depends on: no question, no layouts, no paths."""
    return {
        key: value for key, value in without_places(content).items() if key not in ("question", "layout", "baseline")
    }


def hash_of_shared(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the part of a scenario that every layout depends on."""
    return _hash(shared_content(content))


def hash_of_layout(content: Mapping[str, Any], name: str) -> str:
    """Return the SHA-256 of the table of the layout `name` in a scenario as JSON."""
    return _hash({"layout": [table for table in content.get("layout", ()) if table["name"] == name]})


def hash_of_content(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a scenario as JSON, without its paths."""
    return _hash(without_places(content))


def earlier_hash_of_content(content: Mapping[str, Any]) -> str:
    """Return the hash that records had while the paths of model and weights were part of it."""
    return _hash(_without_place_of_data(content))


def _without_place_of_data(content: Mapping[str, Any]) -> dict[str, Any]:
    data = content.get("data")
    if not isinstance(data, dict):
        return dict(content)
    fingerprint = data.get("fingerprint")
    left_out = [*FILLED_IN]
    if isinstance(fingerprint, dict):
        # Files that are known by what they hold may be moved, and these keys then say their new place.
        left_out += ["path"] if fingerprint.get("revision") is None else []
        left_out += ["processor"] if fingerprint.get("processor") else []
    return {**content, "data": {key: value for key, value in data.items() if key not in left_out}}


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
