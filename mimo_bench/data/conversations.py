"""A user's own files as samples: conversations with images, through `datasets` and a processor of `transformers`.

Training ids run through the rows epoch by epoch, each in an order of its own that the seed decides; held-out ids run
through them in the order of the file. Text is made without opening an image, and images without tokenizing a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mimo_bench.data.chat import Chat, Message
from mimo_bench.data.config import HuggingFaceData, Split
from mimo_bench.data.dataset import CPU, Text, shuffled
from mimo_bench.data.formats import (
    MEDIA,
    OBJECTS,
    TOOLS,
    UNFILLED,
    BadSample,
    is_empty,
    row_images,
    texts_of,
    tools_of,
    without_nulls,
)
from mimo_bench.data.images import pixels
from mimo_bench.data.source import Rows, file_rows, open_rows, row_at
from mimo_bench.models import ModelShape
from mimo_bench.util import DataError, MimoBenchError, ScenarioError, counted


class HuggingFaceDataset:
    """Conversations with images, by sample id."""

    def __init__(self, data: HuggingFaceData, *, shape: ModelShape, seq_length: int, seed: int) -> None:
        """Samples for models of `shape`, at most `seq_length` tokens long; rows are opened by `prepare`.

        Raises:
            ScenarioError: the processor cannot be read, or does not belong to the model.
        """
        self._data, self._seed = data, seed
        self._item_shape = shape.encoders["vision"].item_shape
        processor = _load_processor(data)
        self._image_processor = processor.image_processor
        self._chat = Chat(
            processor,
            shape=shape,
            seq_length=seq_length,
            roles=data.roles,
            where=f"data.processor: {data.processor!r}",
        )
        self._rows: dict[Split, Rows] = {}
        self._name_images: dict[Split, bool] = {}
        self._file_rows: dict[Split, Sequence[range] | None] = {}
        self._columns: dict[Split, dict[str, Any]] = {}
        self._kept: dict[Split, list[int]] = {}
        self._num_left_out: dict[Split, int] = {}
        place = data.place("path")
        self._folder = None if place is None else place if place.is_dir() else place.parent

    def open(self, split: Split) -> int:
        """Open a split; returns how many rows it has.

        Raises:
            DataError: it cannot be read, or has no rows or not the columns.
        """
        if split not in self._rows:
            rows = open_rows(self._data, split)
            table, names = rows.table, {*rows.columns.values(), "id", TOOLS, OBJECTS, *MEDIA}
            # A view of a column costs a millisecond, a value in it a tenth, and no other column is read with it.
            self._columns[split] = {
                name: table.select_columns([name]) for name in names.intersection(table.column_names)
            }
            self._file_rows[split] = file_rows(self._data, split, table)
            self._name_images[split] = rows.naming_images != []
            self._rows[split] = rows
        return len(self._rows[split].table)

    @property
    def skips_bad_samples(self) -> bool:
        """True if samples that cannot be read are left out, instead of ending the run."""
        return self._data.on_bad_sample == "skip"

    def keep(self, split: Split, positions: list[int], *, num_left_out: int) -> None:
        """Let sample ids stand for these positions of the order of rows, so that others are left out."""
        self._kept[split], self._num_left_out[split] = positions, num_left_out

    def num_kept(self, split: Split) -> int:
        """Return the number of sample ids with a kept position; no others can be read."""
        return len(self._kept.get(split, ()))

    @property
    def num_left_out(self) -> dict[Split, int]:
        """Number of rows left out of each split that was examined."""
        return dict(self._num_left_out)

    def bad(self, split: Split, position: int) -> str | None:
        """Return the complaint about the row at a position of the order, or None; makes all of the sample."""
        row = self.row_at(split, position)
        try:
            with _reading():
                self._make_text(split, row)
                self._make_images(split, row)
        except BadSample as reason:
            return f"{self._name(split, row)} {reason}"
        return None

    def unread_columns(self, split: Split) -> list[str]:
        """Return the columns that no sample is made from, in the order of the file."""
        names = self._rows[split].table.column_names
        return [name for name in names if name not in self._columns[split] or name in (OBJECTS, *MEDIA)]

    @property
    def writes_date(self) -> bool:
        """True if the chat template writes the date."""
        return self._chat.writes_date

    def described(self, split: Split, position: int) -> tuple[str, bool]:
        """Return a good sample in words, and whether the chat template ends its last answer."""
        row = self.row_at(split, position)
        messages, tools = self._messages(split, row), tools_of(self._column(split, row, TOOLS))
        text, num_images = self._make_text(split, row), len(self._sources(split, row))
        counts = f"{counted(len(text.tokens), 'token')}, {int(text.is_answer.sum())} of them scored"
        return (
            f"{self._name(split, row)} {counts}, {counted(num_images, 'image')}: {self._chat.shown(text)}",
            self._chat.ends_answers(messages, num_images=num_images, tools=tools),
        )

    def row_at(self, split: Split, position: int) -> int:
        """Which row stands at a position of the order in which rows are read, epoch after epoch."""
        num_rows = self.open(split)
        epoch, place = divmod(position, num_rows)
        return shuffled(f"{self._seed}/rows/{epoch}", num_rows)[place] if split == "train" else place

    def num_items(self, module: str, split: Split, sample_id: int) -> int:
        """Return the number of images of a sample; reads no other column, unless messages may name images.

        Raises:
            DataError: the column holds something else than images; the message names the sample.
        """
        with self._naming(split, row := self._row(split, sample_id)):
            return len(self._sources(split, row))

    def encoder_inputs(self, module: str, split: Split, sample_id: int, device: torch.device = CPU) -> torch.Tensor:
        """float32 [images, 3, height, width], as the image processor makes them.

        Raises:
            DataError: an image is missing or broken; the message names the sample.
        """
        with self._naming(split, row := self._row(split, sample_id)):
            return self._make_images(split, row).to(device)

    def text(self, split: Split, sample_id: int) -> Text:
        """The conversation, with what the assistant says as the answer.

        Raises:
            DataError: it is no conversation, does not fit or has no answer; the message names the sample.
        """
        with self._naming(split, row := self._row(split, sample_id)):
            return self._make_text(split, row)

    def _make_text(self, split: Split, row: int) -> Text:
        messages = self._messages(split, row)
        self._refuse_unread(split, row, messages)
        tools = tools_of(self._column(split, row, TOOLS))
        return self._chat.text(messages, num_images=len(self._sources(split, row)), tools=tools)

    def _make_images(self, split: Split, row: int) -> torch.Tensor:
        return pixels(self._sources(split, row), self._image_processor, item_shape=self._item_shape)

    def _refuse_unread(self, split: Split, row: int, messages: list[Message]) -> None:
        """Refuse a row whose text leaves out what columns hold that nothing here reads."""
        for name in MEDIA:
            if not is_empty(self._column(split, row, name)):
                raise BadSample(f"has {name}, which are not read; remove the column, or drop the sample")
        texts = [*texts_of(messages)]
        marks = () if is_empty(self._column(split, row, OBJECTS)) else UNFILLED
        if found := next((mark for mark in marks for text in texts if mark in text), None):
            raise BadSample(
                f"has {found} in its text, and the column {OBJECTS!r} that fills it is not read; write it out"
            )
        if not self._rows[split].is_utf8 and any("\ufffd" in text for text in texts):
            raise BadSample("has bytes in its text that are not UTF-8; save it as UTF-8")

    def _sources(self, split: Split, row: int) -> list[Any]:
        rows = self._rows[split]
        held = self._column(split, row, rows.columns.get("images"))
        messages = self._column(split, row, rows.columns["messages"]) if self._name_images[split] else None
        return row_images(held, messages, folder=self._folder)

    def _messages(self, split: Split, row: int) -> list[Message]:
        columns = self._rows[split].columns
        if (column := columns.get("messages")) is not None:
            messages = self._column(split, row, column) or []
            if not isinstance(messages, list):
                raise BadSample(f"has a {type(messages).__name__} for a list of messages; give each role and content")
            return messages
        question, answer = (_written(key, self._column(split, row, columns[key])) for key in ("question", "answer"))
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def _column(self, split: Split, row: int, column: str | None) -> Any:
        """Return the value of a column; None if there is no such column."""
        if column is None or (values := self._columns[split].get(column)) is None:
            return None
        return without_nulls(values[row][column], values.features[column])

    def _row(self, split: Split, sample_id: int) -> int:
        return self.row_at(split, self._kept[split][sample_id] if split in self._kept else sample_id)

    @contextmanager
    def _naming(self, split: Split, row: int) -> Iterator[None]:
        """Make what is wrong with a row an error that names it."""
        try:
            with _reading():
                yield
        except BadSample as reason:
            remedy = "" if self.skips_bad_samples else '; data.on_bad_sample = "skip" leaves out bad samples'
            raise DataError(f"{self._name(split, row)} {reason}{remedy}") from None

    def _name(self, split: Split, row: int) -> str:
        """Return the name of a sample for messages: file, split, row, and its id if there is one.

        Rows of a file are counted from 1, as an editor counts the lines of a JSONL; others as `datasets` does.
        """
        try:
            own = self._column(split, row, "id")
        except Exception:  # of a row that cannot be read, its id perhaps neither
            own = None
        named = "" if own is None else f" ({own!r})"
        parts = self._file_rows[split]
        where = (
            f"row {row} of that split, counted from 0"
            if parts is None
            else f"row {row_at(parts, row) + 1} of the file, counted from 1"
        )
        return f"{self._data.path}, split {getattr(self._data, split)!r}, {where}{named}:"


@contextmanager
def _reading() -> Iterator[None]:
    """Make whatever reading a row raises a reason why it cannot be trained on; errors of the scenario stay."""
    try:
        yield
    except (BadSample, MimoBenchError):
        raise
    except Exception as error:  # a row is a user's, and so is what decodes it
        words = " ".join(str(error).split())
        raise BadSample(f"cannot be read: {type(error).__name__}: {words}; mend the row") from error


def _written(key: str, value: str | int | None) -> str:
    """A question or an answer as text; of numbers, only whole ones come here."""
    if value is None:
        raise BadSample(f"has null as its {key}; give it text, '' for none")
    return str(value)


def _load_processor(data: HuggingFaceData) -> Any:
    # Imported here: ranks that train on anything else need not pay for it.
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(data.place("processor"), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScenarioError(
            f"data.processor: {data.processor!r}: cannot be read: {str(error).partition(chr(10))[0]}; save it again "
            "with save_pretrained"
        ) from None
    for part in ("tokenizer", "image_processor", "image_token"):
        if getattr(processor, part, None) is None:
            raise ScenarioError(
                f"data.processor: {data.processor!r}: is a {type(processor).__name__} without {part}; save a processor "
                "of a model with vision, such as LlavaProcessor"
            )
    return processor
