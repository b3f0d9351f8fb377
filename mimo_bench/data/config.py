"""The `[data]` table of a scenario: provider of samples and its options.

Whatever is written here, a sample depends on these options, the seed and its id alone, never on the layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from mimo_bench.data.processor import check_image_size, saved_image_size, saved_tokens
from mimo_bench.models import ModelShape
from mimo_bench.util import NonNegativeFloat, NonNegativeInt, ScenarioError, Share, Table, choices, first_of

Split = Literal["train", "validation", "test"]

FILE_KINDS = (".jsonl", ".json", ".parquet", ".csv")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

FILLED_IN = ("located", "contents")
"""Keys of a user's own files that no scenario says and no hash has: where they were found, and what was counted."""

LEAST_TEXT = 8
"""Positions that every sample keeps for its text, whatever its images take."""


NUM_DIGITS: Final[dict[Split, int]] = {"train": 1259, "validation": 359, "test": 179}
"""Images of each split of the digits."""


class SyntheticData(Table):
    """Samples drawn from seed and id. Without options: one item for each encoder, text of differing length."""

    provider: Literal["synthetic"] = "synthetic"
    items_per_sample: dict[str, Annotated[tuple[NonNegativeFloat, ...], Field(strict=False)]] = Field(default={})
    """By encoder, how often a sample has 0, 1, 2, ... of its items, as weights: `vision = [0, 9, 0, 0, 1]` gives one
    sample in ten four images and all others one. One item each where an encoder is not named."""
    text_only_share: Share = 0.0
    """The share of samples that have no item for any encoder."""
    shortest_text: Share = 0.5
    """The shortest text, as a share of the positions that the items leave free."""
    length_skew: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """1 spreads lengths evenly between the shortest text and a full sequence; 4 makes most texts short and few long."""

    @field_validator("items_per_sample")
    @classmethod
    def _some_weight(cls, weights: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for module, shares in weights.items():
            if not any(shares):
                raise ValueError(f"{module}: gives no number of items any weight; use [0, 1] for one item a sample")
        return weights

    def weights(self, module: str) -> tuple[float, ...]:
        """Return the weights of 0, 1, 2, ... items for the encoder `module`, without text-only samples."""
        return self.items_per_sample.get(module, (0.0, 1.0))

    def most_items(self, module: str) -> int:
        """The largest number of items that a sample has for the encoder `module`."""
        return max(count for count, weight in enumerate(self.weights(module)) if weight)

    def num_items(self, module: str, *, seed: int, split: Split, sample_id: int) -> int:
        """Return the number of items of a sample for the encoder `module`, under the scenario's `seed`."""
        sample = f"{seed}/{split}/{sample_id}"
        if first_of(f"{sample}/text-only") < self.text_only_share:
            return 0
        weights = self.weights(module)
        drawn = first_of(f"{sample}/{module}.count") * sum(weights)
        # The last bound is the sum itself, up to rounding.
        bounds = [*accumulate(weights)][: self.most_items(module)]
        return sum(drawn >= bound for bound in bounds)

    def num_samples(self, split: Split) -> int | None:
        """None: they are drawn without end."""
        return None

    def share_without(self, module: str) -> float:
        """The share of samples that have no item for the encoder `module`."""
        none, *_ = weights = self.weights(module)
        return self.text_only_share + (1.0 - self.text_only_share) * none / sum(weights)

    @property
    def counts_vary(self) -> bool:
        """True if samples differ in how many items they have."""
        several = any(sum(weight > 0 for weight in weights) > 1 for weights in self.items_per_sample.values())
        return several or 0 < self.text_only_share < 1

    def check(self, shape: ModelShape, *, seq_length: int) -> None:
        """Refuse items of encoders that the model lacks, and more of them than the sequence holds.

        Raises:
            ScenarioError: with key, value and remedy.
        """
        for module in self.items_per_sample:
            if module not in shape.encoders:
                raise ScenarioError(
                    f"data.items_per_sample: {module!r} is no encoder; {choices(module, shape.encoders)}"
                )
        taken = sum(self.most_items(name) * encoder.num_tokens for name, encoder in shape.encoders.items())
        if seq_length < (least := taken + LEAST_TEXT):
            raise ScenarioError(
                f"seq_length = {seq_length}: the fullest samples have items that take {taken} positions, and their "
                f"text needs {LEAST_TEXT} more; use at least {least}, or fewer items in data.items_per_sample"
            )


class DigitsData(Table):
    """The handwritten digits that ship with scikit-learn: a task that a small model learns within a minute."""

    provider: Literal["digits"] = "digits"

    @property
    def counts_vary(self) -> bool:
        """Every digit is one image."""
        return False

    def most_items(self, module: str) -> int:
        """One image."""
        return 1

    def num_samples(self, split: Split) -> int | None:
        """Return the number of images of a split."""
        return NUM_DIGITS[split]

    def check(self, shape: ModelShape, *, seq_length: int) -> None:
        """Refuse to start without the package that ships the digits, or with a model that reads something else.

        Raises:
            ScenarioError: scikit-learn is missing, or the model reads something else than square images.
        """
        if set(shape.encoders) != {"vision"}:
            raise ScenarioError('data: the digits are images and nothing else; use "synthetic" for a model with audio')
        if (dims := shape.encoders["vision"].item_shape) != (3, dims[-1], dims[-1]):
            raise ScenarioError(
                f'data: the digits are square images of 3 channels, and vision reads {list(dims)}; use "synthetic"'
            )
        if find_spec("sklearn") is None:
            raise ScenarioError("data: the digits ship with scikit-learn, which is missing; pip install scikit-learn")


class Contents(Table):
    """Counts of a user's own files, taken when their scenario was read."""

    num_samples: dict[Split, NonNegativeInt]
    """Rows of the splits that are read, bad samples included."""
    most_images: NonNegativeInt | None
    """The largest number of images of any training sample that fits into a sequence; None where it is not known."""
    num_trained_on: dict[Split, NonNegativeInt]
    """Rows of a held-out split that `train` has too, where there are any."""


class FileDigest(Table):
    """A file that samples are read from."""

    num_bytes: NonNegativeInt
    sha256: str


class ImagesDigest(Table):
    """Images as their folder has them; none of them is opened."""

    num_files: NonNegativeInt
    num_bytes: NonNegativeInt
    sha256: str
    """Of their names, from the folder on, and sizes."""


class DataFingerprint(Table):
    """Content that samples are made from; equal for a folder that was moved or copied."""

    files: Mapping[str, FileDigest] = {}
    """The tables, by their names from the folder on."""
    images: ImagesDigest | None = None
    """Those of the folder, or those that the rows name; None where there are none."""
    revision: str | None = None
    """The commit of a dataset on the hub."""
    processor: Annotated[Mapping[str, FileDigest], Field(exclude_if=lambda files: not files)] = {}
    """Tokenizer, image processor and chat template, by the names of their files; empty in old records."""


class HuggingFaceData(Table):
    """A user's own samples, read by `datasets` and made ready by a processor of `transformers`.

    A sample is a conversation with its images: the loss scores what the assistant says and nothing else.
    """

    provider: Literal["huggingface"]
    path: Annotated[str, Field(min_length=1)]
    """A .jsonl, .json, .parquet or .csv file or a folder of images, next to the scenario or from the working directory;
    or the name of a dataset on the hub."""
    train: str = "train"
    """The split to train on, or a part of it as `datasets` spells it: `train[:90%]`."""
    validation: str = "validation"
    """The split of held-out samples: `train[90%:]` where the source has none of its own."""
    test: str = "test"
    processor: Annotated[str, Field(min_length=1)]
    """The folder where `transformers` saved the processor: tokenizer, image processor and chat template."""
    images: str = "images"
    """The column with a sample's images: one or several, as paths relative to the file, or as images; an empty list for
    none. The default stands for `image`, too, and for no column if messages name their images themselves."""
    messages: str = "messages"
    """The column with the conversation: a list of messages with `role` and `content`, or `from` and `value`. The
    default stands for `conversations`, too."""
    question: str | None = None
    """With `answer`, columns of one question and its answer, instead of a conversation."""
    answer: str | None = None
    roles: Annotated[dict[str, str], Field(exclude_if=lambda roles: not roles)] = Field(default={})
    """Roles of the chat template by their names in the data: `{ bot = "assistant" }`; ShareGPT's `human` and `gpt` are
    known."""
    on_bad_sample: Literal["stop", "skip"] = "stop"
    """What a sample that cannot be read does: stop the run, or be left out, counted and named in the record."""
    located: Annotated[dict[str, str], SkipJsonSchema(), Field(exclude_if=lambda places: not places)] = Field(
        default={}
    )
    # Where path and processor were found when the file was read; ranks look there.
    contents: Annotated[Contents | None, SkipJsonSchema(), Field(exclude_if=lambda found: found is None)] = None
    # What the files held then, for predictions: None before they are read, and for a name on the hub.
    fingerprint: Annotated[DataFingerprint | None, SkipJsonSchema(), Field(exclude_if=lambda held: held is None)] = None
    # Content at path and processor, if read: part of the scenario's hash and of checkpoints, which the path is not.

    @model_validator(mode="after")
    def _both_or_neither(self) -> HuggingFaceData:
        if (self.question is None) != (self.answer is None):
            raise ValueError("question and answer go together; name both columns, or neither for messages")
        return self

    @property
    def counts_vary(self) -> bool:
        """Unknown before the files are read, so it is taken for granted."""
        return True

    def most_items(self, module: str) -> int | None:
        """The largest number of images that a training sample has; None where that is not known."""
        return None if self.contents is None else self.contents.most_images

    def num_samples(self, split: Split) -> int | None:
        """Return the number of rows of a split, bad samples included; None if unknown."""
        return None if self.contents is None else self.contents.num_samples.get(split)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that every row must have, by the key that names them."""
        if self.question is None or self.answer is None:
            return {"images": self.images, "messages": self.messages}
        return {"images": self.images, "question": self.question, "answer": self.answer}

    def place(self, key: str) -> Path | None:
        """Return the file or folder that `key` names; None for a name on the hub."""
        return Path(self.located[key]) if key in self.located else None

    def check(self, shape: ModelShape, *, seq_length: int) -> None:
        """Refuse what is not there, models that read something else than images, and another model's processor.

        Raises:
            ScenarioError: with key, value and remedy.
        """
        for package in ("datasets", "PIL"):
            if find_spec(package) is None:
                raise ScenarioError(
                    f"data: the provider needs {package}, which is missing; pip install datasets pillow"
                )
        if set(shape.encoders) != {"vision"}:
            raise ScenarioError(
                'data: the provider "huggingface" reads images and nothing else; use "synthetic" for a model with audio'
            )
        place = self.place("path")
        if place is None and (Path(self.path).suffix in FILE_KINDS or not _HUB_NAME.fullmatch(self.path)):
            raise ScenarioError(f"data.path: {self.path!r}: no such file or folder; put it next to the scenario")
        if place is not None and place.is_file() and place.suffix not in FILE_KINDS:
            raise ScenarioError(f"data.path: {self.path!r}: is no {', '.join(FILE_KINDS)} file; convert it to one")
        processor = self.place("processor")
        if processor is None or not (processor / "tokenizer_config.json").is_file():
            raise ScenarioError(
                f"data.processor: {self.processor!r}: is no folder with a tokenizer_config.json; save the processor "
                "there with save_pretrained of transformers"
            )
        where = f"data.processor: {self.processor!r}"
        if (tokens := saved_tokens(processor, where=where)) is not None:
            tokens.check(shape, where=where)
        if (size := saved_image_size(processor, where=where)) is not None:
            check_image_size((3, *size), shape.encoders["vision"].item_shape)


def locate(data: Any, *, folder: Path) -> Any:
    """Return the `data` of a file with its paths found: next to the scenario, or from the working directory.

    Raises:
        ScenarioError: the file fills in what only we do.
    """
    if not isinstance(data, dict) or data.get("provider") != "huggingface":
        return data
    for key in (*FILLED_IN, "fingerprint"):
        if key in data:
            raise ScenarioError(f"data.{key}: is filled in from path and processor; remove it")
    located = {}
    for key in ("path", "processor"):
        if isinstance(name := data.get(key), str) and name:
            places = (folder / name, Path(name))
            if (found := next((place for place in places if place.exists()), None)) is not None:
                located[key] = str(found.absolute())
    return {**data, "located": located}


NAMED: Final[dict[str, dict[str, Any]]] = {
    "synthetic": {"provider": "synthetic"},
    "synthetic-filled": {"provider": "synthetic", "shortest_text": 1.0},
    "digits": {"provider": "digits"},
}
"""What a name alone stands for: `data = "digits"`."""


def _spelled_out(value: Any) -> Any:
    if isinstance(value, str):
        if value not in NAMED:
            raise ValueError(f"is not known; {choices(value, NAMED)}")
        return NAMED[value]
    return value


Data = Annotated[
    SyntheticData | DigitsData | HuggingFaceData,
    Field(discriminator="provider"),
    BeforeValidator(
        _spelled_out,
        json_schema_input_type=Literal["synthetic", "synthetic-filled", "digits"]
        | SyntheticData
        | DigitsData
        | HuggingFaceData,
    ),
]
"""The samples of a scenario: a table with a provider and its options, or a name for one that needs none."""
