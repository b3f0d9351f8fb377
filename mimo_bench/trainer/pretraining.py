"""Configuration of a training: model, steps, samples, checkpoints and log. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import InstanceOf, TypeAdapter

from mimo_bench.data import NAMED, Data, DigitsData, HuggingFaceData, Split, SyntheticData, locate, read_fingerprint
from mimo_bench.layout import Precision, Settings
from mimo_bench.models import ModelShape
from mimo_bench.scenario import LoaderTable, Scenario, Training, without_places
from mimo_bench.trainer.arguments import check_argument, check_fields
from mimo_bench.trainer.logging import Logging
from mimo_bench.util import NonNegativeInt, PositiveInt, ScenarioError, choices

BuiltinData = SyntheticData | DigitsData | HuggingFaceData | str
"""Built-in samples, as a scenario describes or names them."""

_DATA: TypeAdapter[Data] = TypeAdapter(Data)


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Evaluation on samples that are not trained on; nothing else switches it on or off."""

    every: PositiveInt
    """Steps between two evaluations; the last step is followed by one in any case."""
    num_batches: PositiveInt
    """Global batches of validation samples, the same each time."""
    num_test_batches: NonNegativeInt = 0
    """Global batches of test samples, scored once, after the last step; 0 for none."""

    def __post_init__(self) -> None:
        check_fields(self, "validation.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """Checkpoints. A training resumes from the newest whole one, if any."""

    directory: InstanceOf[Path]
    """All ranks see it."""
    every: PositiveInt | None = None
    """Steps between two checkpoints; after the last step there is one in any case."""
    keep_last: PositiveInt = 2
    in_background: bool = False
    """Train on while a checkpoint is written; the host holds a copy meanwhile."""

    def __post_init__(self) -> None:
        check_fields(self, "saving.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """Configuration of a training, apart from model provider, data and layout."""

    shape: InstanceOf[ModelShape]
    seq_length: PositiveInt
    global_batch_size: PositiveInt
    """Samples per optimizer step."""
    global_micro_batch_size: PositiveInt
    """Samples per micro-batch over all replicas."""
    num_steps: PositiveInt
    """Optimizer steps from the very first; a resumed training takes those that are left."""
    training: InstanceOf[Training] = field(default_factory=Training)
    settings: InstanceOf[Settings] = field(default_factory=Settings)
    loader: InstanceOf[LoaderTable] = field(default_factory=LoaderTable)
    """Threads that make batches, and how many they make ahead; which samples, it does not change."""
    precision: Precision = "fp32"
    seed: NonNegativeInt = 0
    weights: InstanceOf[Path] | None = None
    """A directory of weights, or a checkpoint, to start from; None for weights drawn from the seed."""
    validation: InstanceOf[Validation] | None = None
    saving: InstanceOf[Saving] | None = None
    logging: InstanceOf[Logging] = field(default_factory=Logging)

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, scenario: Scenario, layout: str, *, num_steps: int, **more: Any) -> Pretraining:
        """The training that `scenario` describes, in the settings of its layout of that name.

        Args:
            scenario: model, batch, seed, optimizer, loader, and the weights to start from if it names any.
            layout: a layout's name.
            num_steps: steps from the very first.
            more: any other field, which comes before what the scenario says.
        """
        directory, case = scenario.weights_directory, scenario.case(layout)
        said: dict[str, Any] = {
            "shape": scenario.shape,
            "seq_length": scenario.seq_length,
            "global_batch_size": scenario.global_batch_size,
            "global_micro_batch_size": case.plan.global_micro_batch_size,
            "training": scenario.training,
            "settings": case.settings,
            "loader": scenario.loader,
            "precision": scenario.precision,
            "seed": scenario.seed,
            "weights": None if directory is None else Path(directory),
        }
        return cls(num_steps=num_steps, **said | more)

    @property
    def num_batches(self) -> dict[Split, int]:
        """Global batches that are read of each split."""
        validation = self.validation
        held_out = (0, 0) if validation is None else (validation.num_batches, validation.num_test_batches)
        return {"train": self.num_steps, "validation": held_out[0], "test": held_out[1]}

    def scored_after(self, num_steps: int) -> dict[Split, int]:
        """The splits that are evaluated after `num_steps` steps, and how many global batches of each."""
        if (asked := self.validation) is None:
            return {}
        due: dict[Split, int] = {}
        if self._is_due(num_steps, asked.every):
            due["validation"] = asked.num_batches
        if asked.num_test_batches and num_steps == self.num_steps:
            due["test"] = asked.num_test_batches
        return due

    def is_saved_after(self, num_steps: int) -> bool:
        """True if there is a checkpoint after `num_steps` steps."""
        return self.saving is not None and self._is_due(num_steps, self.saving.every)

    def _is_due(self, num_steps: int, every: int | None) -> bool:
        return num_steps == self.num_steps or (every is not None and num_steps % every == 0)

    def held_fixed(self, data: object) -> dict[str, Any]:
        """Return what a resumed training must share with the one that saved the checkpoint, as JSON.

        A user's own files are read for it, where `data.fingerprint` does not say yet what they hold.

        Raises:
            DataError: they cannot be read.
            UsageError: samples of a user's own have a `content_hash` that is no text.
        """
        return {
            "shape": _as_json(asdict(self.shape)),
            "data": _identity(data),
            "seq_length": self.seq_length,
            "global_batch_size": self.global_batch_size,
            "precision": self.precision,
            "seed": self.seed,
            "training": self.training.model_dump(mode="json"),
        }


def parse_data(data: BuiltinData) -> Data:
    """Return the table of built-in samples from a name or a table; paths start at the working directory.

    Raises:
        ScenarioError: the name is unknown.
    """
    if isinstance(data, str) and data not in NAMED:
        raise ScenarioError(f"data: {data!r} is not known; {choices(data, NAMED)}")
    if isinstance(data, HuggingFaceData) and not data.located:
        return HuggingFaceData.model_validate(locate(data.model_dump(), folder=Path()))
    return _DATA.validate_python(data)


def processor_of(data: object) -> Path | None:
    """Return the folder of the processor that makes samples of `data`; None if they are made without one."""
    ours = parse_data(data) if isinstance(data, HuggingFaceData) else None
    return ours.place("processor") if isinstance(ours, HuggingFaceData) else None


def _identity(data: object) -> Any:
    """Return the identity of samples: options and content of files, or the class of a user's dataset."""
    if isinstance(data, BuiltinData):
        ours = parse_data(data)
        if isinstance(ours, HuggingFaceData) and ours.fingerprint is None:
            ours = ours.model_copy(update={"fingerprint": read_fingerprint(ours)})
        return without_places({"data": ours.model_dump(mode="json")})["data"]
    name = f"{type(data).__module__}.{type(data).__qualname__}"
    if (content_hash := getattr(data, "content_hash", None)) is None:
        return name
    check_argument("data.content_hash", content_hash, InstanceOf[str])
    return {"class": name, "content_hash": content_hash}


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
