"""What is held fixed and what varies: TOML in, frozen models out.

[scenario] -> layout -> trainer -> meters -> record -> parity -> report

A scenario in hand is a valid one: its layouts fit their world, the model and the batch. Everything that integers
can decide is decided here, before any process starts.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from mimo_bench.contents import read_contents
from mimo_bench.data_fingerprint import read_fingerprint
from mimo_bench.data_section import FILLED_IN, Data, HuggingFaceData, Split, SyntheticData, locate
from mimo_bench.errors import DataError, LayoutError, ScenarioError, WeightsError
from mimo_bench.explain import explain
from mimo_bench.layout import BatchPlan, Grid, Layout
from mimo_bench.model import PRESETS, ModelShape, read_model_shape
from mimo_bench.model.provider import extend
from mimo_bench.suggest import choices
from mimo_bench.table import NonNegativeInt, PositiveInt, Share, Table
from mimo_bench.training import Training
from mimo_bench.weights.directory import Manifest, check_shape, read_manifest

Precision = Literal["fp32", "bf16"]
AttentionBackend = Literal["default", "math", "flash", "cudnn"]

LAYOUT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Layout names are folder names in a record, so they hold nothing a file system would mind."""


WITHOUT_FP16 = (
    "megatron-core 0.19 scales the loss for each module on its own, and after one of them overflows they train apart; "
    'use "bf16"'
)
"""Why there is no such precision."""

_LACKING = {
    "vpp": "megatron-core 0.19 schedules several modules with one stage a rank, so there are no virtual stages",
}
"""Degrees that somebody who knows megatron-core may ask for, and why there is no such key."""


class GridTable(Table):
    """One module's parallel degrees and the first rank of its span."""

    tp: PositiveInt = 1
    cp: PositiveInt = 1
    pp: PositiveInt = 1
    dp: PositiveInt = 1
    ep: Annotated[PositiveInt, Field(exclude_if=lambda ep: ep == 1)] = 1
    """Deals the language model's experts out: so many consecutive ranks of a stage together hold every one once."""
    rank_offset: NonNegativeInt = 0
    """First global rank of the span; the name is megatron-core's."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_megatron_core_lacks(cls, content: Any) -> Any:
        for key, reason in _LACKING.items():
            if isinstance(content, dict) and key in content:
                raise ValueError(f"{key} = {content[key]}: {reason}; remove it")
        return content

    def swapped(self) -> GridTable:
        """As many ranks, with tensor and data parallelism the other way round."""
        return self.model_copy(update={"tp": self.dp, "dp": self.tp})

    def grid(self) -> Grid:
        """The checked grid.

        Raises:
            LayoutError: a degree that megatron-core cannot train.
        """
        return Grid(tp=self.tp, cp=self.cp, pp=self.pp, dp=self.dp, ep=self.ep, rank_offset=self.rank_offset)


class Settings(Table):
    """How a layout trains, never what: none of these changes the model that comes out."""

    distributed_optimizer: bool = False
    """Shard the optimizer state of each module over its data-parallel ranks."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass still runs."""
    overlap_param_gather: bool = False
    """Gather updated parameters while the next forward pass already runs; needs the distributed optimizer.

    Together with `compile_layers` it is slower than without: its hooks break up every layer's graph (on two H200s
    456 against 302 ms a step)."""
    sequence_parallel: bool = False
    """Shard the language model's norms and residuals over its tensor-parallel ranks along the sequence."""
    fused_optimizer: bool = False
    """Clip and update the weights of a module in one kernel, instead of one for each operation of AdamW."""
    fused_loss: bool = False
    """Compute the loss from logits as they are, in three kernels, and keep no probabilities of all words in fp32."""
    fused_gradient_accumulation: bool = False
    """Let matrix products add each weight gradient to its fp32 buffer, instead of an operation of its own for every
    micro-batch."""
    fused_activation: bool = False
    """Compute the language model's SwiGLU in one kernel forward and one backward."""
    fused_rope: bool = False
    """Take queries, keys and values of the language model apart and rotate them in one kernel forward and one
    backward."""
    recompute_activations: bool = False
    """Recompute every transformer layer in the backward pass instead of keeping its activations."""
    compile_layers: bool = False
    """Run every transformer layer through `torch.compile`; CPU ranks leave it as it is."""
    attention: AttentionBackend = "default"
    """The attention kernel on GPUs: PyTorch's own choice, FlashAttention or cuDNN's; the latter two take bf16 only."""

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.overlap_param_gather and not (self.distributed_optimizer and self.overlap_grad_reduce):
            raise ValueError(
                "overlap_param_gather needs distributed_optimizer = true and overlap_grad_reduce = true; set both"
            )
        if self.sequence_parallel and self.compile_layers:
            # Seen on two H200s, torch 2.11: same loss, and no gradient below the topmost layer.
            raise ValueError(
                "compile_layers loses gradients under sequence_parallel, without an error; switch one of them off"
            )
        return self

    def check(
        self, layout: Layout, *, shape: ModelShape, precision: Precision, seq_length: int, counts_vary: bool
    ) -> None:
        """Whether a layout can be trained with these settings.

        Args:
            layout: the grids.
            shape: the model.
            precision: of parameters and activations.
            seq_length: of the language model.
            counts_vary: whether samples differ in how many items they have.

        Raises:
            LayoutError: it cannot; the message names the setting and says what to use instead.
        """
        tp = layout.language.tp
        if self.attention in ("flash", "cudnn") and precision != "bf16":
            raise LayoutError(
                f"settings.attention = {self.attention!r} takes bf16 only and precision is {precision!r}; use "
                'attention = "default"'
            )
        if self.compile_layers and counts_vary:
            raise LayoutError(
                "settings.compile_layers: layers are compiled anew for every number of items in a micro-batch, and "
                "data gives samples different numbers of them; switch it off, or give every sample as many"
            )
        if shape.language.experts is not None:
            self._check_with_experts(tp)
        if self.sequence_parallel and seq_length % tp:
            raise LayoutError(
                f"settings.sequence_parallel: seq_length = {seq_length} does not split over language.tp = {tp}; use a "
                "multiple of it"
            )

    def _check_with_experts(self, tp: int) -> None:
        if self.fused_activation:
            raise LayoutError(
                "settings.fused_activation: experts weigh what their activation gives, which the kernel does not; "
                "switch it off"
            )
        if tp > 1 and not self.sequence_parallel:
            raise LayoutError(
                f"language.tp = {tp}: experts are trained with tensor parallelism only where each rank routes "
                "positions of its own; set settings.sequence_parallel = true"
            )
        if self.compile_layers:
            raise LayoutError(
                "settings.compile_layers: layers are compiled anew for every number of positions that reach an expert, "
                "and routing changes it in every micro-batch; switch it off"
            )

    def for_parity(self) -> Settings:
        """The same settings as parity mode trains them: nothing overlapped or compiled, the plainest kernels."""
        off = (
            *("overlap_grad_reduce", "overlap_param_gather", "compile_layers"),
            *("fused_optimizer", "fused_loss", "fused_gradient_accumulation", "fused_activation", "fused_rope"),
        )
        return self.model_copy(update={**dict.fromkeys(off, False), "attention": "math"})


class EncoderTable(Table):
    """An encoder that another package provides through the entry-point group `mimo_bench.providers`."""

    token_id: PositiveInt
    """The token whose positions its output fills."""
    options: Mapping[str, Any] = {}
    """Fields of the provider's class."""


class LayoutTable(Table):
    """One layout: a grid for each module, and its settings."""

    name: Annotated[str, Field(pattern=LAYOUT_NAME)]
    vision: GridTable | None = None
    """The grid of the vision encoder; given if and only if the model has one, like every encoder's."""
    audio: GridTable | None = None
    language: GridTable
    encoders: Mapping[str, GridTable] = {}
    """The grids of encoders that other packages provide, by name."""
    global_micro_batch_size: PositiveInt | None = None
    """Overrides the scenario's; samples per micro-batch over all replicas."""
    settings: Settings = Settings()

    def grids(self) -> Layout:
        """The checked layout.

        Raises:
            LayoutError: the grids overlap in part, leave a gap, or need what megatron-core lacks.
        """
        return _layout(tuple(self.modules.items()))

    @property
    def modules(self) -> dict[str, GridTable]:
        """The grids as they were written, by module."""
        tables = {"vision": self.vision, "audio": self.audio, **self.encoders, "language": self.language}
        return {module: table for module, table in tables.items() if table is not None}

    def swapped(self) -> LayoutTable:
        """The same ranks, tensor-parallel where this is data-parallel and the other way round; not checked."""
        own = {"vision": self.vision, "audio": self.audio, "language": self.language}
        swapped = {name: table.swapped() for name, table in own.items() if table is not None}
        encoders = {name: table.swapped() for name, table in self.encoders.items()}
        return self.model_copy(update={**swapped, "encoders": encoders})


@lru_cache(maxsize=1 << 14)
def _layout(tables: tuple[tuple[str, GridTable], ...]) -> Layout:
    """The checked layout of these grids; worked out once, as many layouts of a scenario differ in settings alone."""
    grids = {}
    for module, table in tables:
        try:
            grids[module] = table.grid()
        except LayoutError as error:
            raise LayoutError(f"{module}.{error}") from None
    return Layout(modules=grids)


class Steps(Table):
    """How many optimizer steps each mode takes."""

    parity: Annotated[int, Field(ge=2)] = 5
    """Steps whose losses and gradient norms are held against the baseline; at least two."""
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
                "a single step shows nothing of learning rates and of Adam's moments, which are held against the "
                "baseline's after the second; use 2 or more, or leave it out for 5"
            )
        return parity

    @property
    def num_as_timed(self) -> int:
        """Steps as timed that are held against the baseline: those of the parity run, as far as a timed run goes."""
        return min(self.parity, self.warmup + self.timed)


class LoaderTable(Table):
    """How samples are made ready while the model trains; which samples, it does not change."""

    num_workers: PositiveInt = 2
    """Threads on every rank that make batches."""
    num_ahead: PositiveInt = 2
    """Global batches that are made ahead."""
    num_watched_steps: NonNegativeInt = 3
    """Steps behind the timed window that are fed by the loader as a training run is, to see what it costs."""


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


class Scenario(Table):
    """One controlled experiment: only the layout varies."""

    question: Annotated[str, Field(min_length=1)]
    model: str
    """A preset's name, or the path of a config.json that `transformers` wrote: beside the scenario, or from here."""
    configured: Annotated[ModelShape | None, SkipJsonSchema(), Field(exclude_if=lambda shape: shape is None)] = None
    # What the config.json says. Read with the scenario and kept in it: so ranks, hash and record all hold the same.
    encoders: Mapping[str, EncoderTable] = {}
    """Encoders of other packages, added to the model under the names that they are registered by."""
    weights: Annotated[str | None, Field(exclude_if=lambda weights: weights is None)] = None
    """A directory that `mimo-bench import` made, beside the scenario or from here; otherwise the seed draws them."""
    stored: Annotated[StoredContent | None, SkipJsonSchema(), Field(exclude_if=lambda stored: stored is None)] = None
    # What lies there, as a hash: part of the record and of the scenario's own hash.
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
        if precision == "fp16":
            raise ValueError(WITHOUT_FP16)
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
            options={name: table.options for name, table in self.encoders.items()},
            tokens={name: table.token_id for name, table in self.encoders.items()},
        )

    @property
    def weights_directory(self) -> str | None:
        """Where the weights lie that training starts from; None where the seed draws them."""
        return None if self.stored is None else self.stored.directory

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

    def batch_plan(self, name: str) -> BatchPlan:
        """How the layout called `name` deals out a global batch."""
        table = self.table(name)
        return self.plan_of(table, table.grids())

    def plan_of(self, table: LayoutTable, layout: Layout) -> BatchPlan:
        """How the layout that `table` declares, which is `layout`, deals out a global batch."""
        override = table.global_micro_batch_size
        return BatchPlan.of(
            layout,
            global_batch_size=self.global_batch_size,
            global_micro_batch_size=self.global_micro_batch_size if override is None else override,
        )

    def check(self) -> None:
        """Refuse what no field alone can show wrong.

        Raises:
            ScenarioError: model, baseline or sequence do not fit.
            LayoutError: a layout cannot be trained; the message names it.
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
        self.shape.check_sequence(self.seq_length)
        self.training.check(modules=tuple(self.shape.modules))
        self.data.check(self.shape, seq_length=self.seq_length)
        for table in self.layout:
            try:
                self._check_layout(table)
            except LayoutError as error:
                raise LayoutError(f"layout {table.name!r}: {error}") from None

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
            shape=self.shape,
            precision=self.precision,
            seq_length=self.seq_length,
            counts_vary=self.data.counts_vary,
        )


def without_places(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a scenario says, as JSON has it, less where its files were found and what was counted in them."""
    data = content.get("data")
    if not isinstance(data, dict):
        return dict(content)
    fingerprint = data.get("fingerprint")
    # Files that are known by what they hold may be moved, and path then says their new place.
    is_local = isinstance(fingerprint, dict) and fingerprint.get("revision") is None
    left_out = (*FILLED_IN, "path") if is_local else FILLED_IN
    return {**content, "data": {key: value for key, value in data.items() if key not in left_out}}


def hash_of_content(content: Mapping[str, Any]) -> str:
    """SHA-256 of what a scenario says, as JSON has it."""
    canonical = json.dumps(without_places(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def load_scenario(path: Path, *, with_fingerprint: bool = False) -> Scenario:
    """Read and check a scenario file.

    Args:
        path: the file.
        with_fingerprint: whether to add that of the data, for whoever records, resumes or compares. All bytes of a
            user's own files are read for it, images apart, and the hub is asked for names there.

    Raises:
        ScenarioError: with file, key or layout, value and remedy.
    """
    content = _read(path)
    for key, source in (("configured", "model"), ("stored", "weights")):
        if key in content:
            raise ScenarioError(f"{path}: {key}: is filled in from what {source} names; remove it")
    if isinstance(model := content.get("model"), str) and model.endswith(".json"):
        content["configured"] = _configured(path, model)
    manifest, directory = None, Path()
    if isinstance(weights := content.get("weights"), str):
        manifest, directory = _stored(path, weights)
        content["stored"] = StoredContent(content_hash=manifest.content_hash, directory=str(directory))
    if "data" in content:
        content["data"] = _located(path, content["data"])
    try:
        scenario = Scenario.model_validate(content)
    except ValidationError as error:
        problems = explain(error.errors(), content=content, root=Scenario)
        raise ScenarioError("\n".join(f"{path}: {problem}" for problem in problems)) from None
    try:
        scenario.check()
        if manifest is not None:
            check_shape(directory, manifest, scenario.shape)
        if isinstance(scenario.data, HuggingFaceData):
            scenario = _with_contents(scenario, scenario.data, with_fingerprint=with_fingerprint)
    except DataError as error:
        raise ScenarioError(f"{path}: {error}") from None
    except ScenarioError as error:
        raise type(error)(f"{path}: {error}") from None
    except WeightsError as error:
        raise ScenarioError(f"{path}: weights: {error}") from None
    return scenario


def _with_contents(scenario: Scenario, data: HuggingFaceData, *, with_fingerprint: bool) -> Scenario:
    """The scenario with what its files hold.

    Raises:
        DataError: they cannot be read.
    """
    splits: tuple[Split, ...] = ("train", "validation") if scenario.evaluation.num_batches else ("train",)
    # A sequence has room for something else than images, which the loss scores.
    most_images = (scenario.seq_length - 1) // scenario.shape.encoders["vision"].num_tokens
    found: dict[str, Any] = {"contents": read_contents(data, splits, most_images=most_images)}
    if with_fingerprint:
        found["fingerprint"] = read_fingerprint(data)
    return scenario.model_copy(update={"data": data.model_copy(update=found)})


def _stored(path: Path, weights: str) -> tuple[Manifest, Path]:
    """What the directory named `weights` holds, and where it is; beside the scenario, or from the working directory."""
    places = (path.parent / weights, Path(weights))
    if (found := next((place for place in places if place.is_dir()), None)) is None:
        looked = " or ".join(dict.fromkeys(map(str, places)))
        raise ScenarioError(
            f"{path}: weights: {weights!r}: no such directory; `mimo-bench import` makes one at {looked}"
        )
    try:
        return read_manifest(found), found.absolute()
    except WeightsError as error:
        raise ScenarioError(f"{path}: weights: {error}") from None


def _configured(path: Path, model: str) -> ModelShape:
    """The shape that the config.json named `model` describes; beside the scenario, or from the working directory."""
    found = find_config(path, model)
    try:
        return read_model_shape(found)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: model: {error}") from None


def find_config(path: Path, model: str) -> Path:
    """Where the config.json lies that the scenario at `path` names `model`.

    Raises:
        ScenarioError: neither beside the scenario nor below the working directory.
    """
    places = (path.parent / model, Path(model))
    if (found := next((place for place in places if place.is_file()), None)) is None:
        looked = " or ".join(dict.fromkeys(map(str, places)))
        raise ScenarioError(f"{path}: model: {model!r}: no such file; put it at {looked}")
    return found


def _located(path: Path, data: Any) -> Any:
    try:
        return locate(data, beside=path.parent)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScenarioError(f"{path}: no such file; `ls scenarios/` shows those that ship") from None
    except IsADirectoryError:
        raise ScenarioError(f"{path}: is a directory; name a scenario file in it") from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path}: not valid TOML: {error}; correct it there") from None
