"""Rows of a user's own files through `datasets`: opened, checked by column, and counted.

Sources are JSONL, Parquet, CSV, folders of images, or a name on the hub. Files are read with the scenario, before
anything starts; `datasets` caches them and ranks open the cache. What cannot be read is a DataError that names file,
split and remedy. Checks and counts use the columns' types and lengths, so no image is opened; what types leave open,
such as lists of mixed types, is reported for each sample when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mimo_bench.data.columns import (
    WHOLE,
    column_remedy,
    columns_of,
    may_name_images,
    no_messages,
    scalar,
    widened,
    wrong_columns,
)
from mimo_bench.data.config import Contents, HuggingFaceData, Split
from mimo_bench.data.formats import TOOLS, named_images
from mimo_bench.util import DataError

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A source as `datasets` has it."""

    rows: Any
    """The rows of a split, or of all splits by name."""
    features: Any
    """Types of the first rows, before messages are read as JSON."""
    is_utf8: bool = True
    """False if bytes of other encodings were replaced by U+FFFD."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one split."""

    table: Any
    """A `datasets.Dataset` whose images are not decoded."""
    columns: Mapping[str, str]
    """Columns that samples are made from, by the key that names them; no images if messages alone name any."""
    is_utf8: bool = True
    """False if bytes of other encodings were replaced by U+FFFD."""

    @cached_property
    def naming_images(self) -> Any | None:
        """Positions of rows whose messages may name images, which are few in JSON; None for all rows."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.columns.get("messages")
        # A fingerprint is also made of files whose columns were not checked yet.
        if column is None or column not in self.table.features or not may_name_images(self.table.features[column]):
            return []
        held = _arrow(self.table, column)
        if not isinstance(held.type, pa.BaseExtensionType):
            return None
        text = pa.chunked_array([chunk.storage for chunk in held.chunks])
        return pc.indices_nonzero(pc.match_substring(text, '"image').fill_null(False)).to_pylist()


def open_rows(data: HuggingFaceData, split: Split) -> Rows:
    """The rows of one split, with images not decoded.

    Raises:
        DataError: the source cannot be read, lacks the split or a column, is empty, or holds something else.
    """
    # Imported here: it brings pandas along, which ranks that train on anything else should not pay for.
    import datasets
    import pyarrow as pa

    be_quiet()
    wanted = getattr(data, split)
    where = f"data: {data.path}, split {wanted!r}"
    try:
        loaded = load(data, split=wanted)
    except datasets.exceptions.DatasetGenerationError as error:
        reason = odd_line(data.place("path")) or _first_line(error.__cause__ or error)
        raise DataError(f"{where}: cannot be read: {reason}; mend the file") from None
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: cannot be read: {_first_line(error)}; mend the file") from None
    except StopIteration:
        raise DataError(f"{where}: holds no samples; give a file that does") from None
    except (ValueError, OSError, ArithmeticError, LookupError) as error:
        raise DataError(f"{where}: {_first_line(error)}; {_remedy(split)}") from None
    rows = loaded.rows
    if not len(rows):
        raise DataError(f"{where}: holds no samples; {_remedy(split)}")
    if rows.info.builder_name == "webdataset":
        raise DataError(f"{where}: holds shards of WebDataset, which are not read; convert them to Parquet")
    columns = columns_of(data, loaded.features)
    for key, column in columns.items():
        if column not in rows.column_names:
            remedy = column_remedy(key, column, others=set(rows.column_names) - set(columns.values()))
            raise DataError(f"{where}: has no column {column!r}, which data.{key} names; {remedy}")
    for reason in wrong_columns(columns, loaded.features):
        raise DataError(f"{where}: {reason}")
    return Rows(table=_undecoded(rows, columns.get("images")), columns=columns, is_utf8=loaded.is_utf8)


def load(data: HuggingFaceData, *, split: str | None = None) -> Loaded:
    """Return what `datasets` makes of the source, with texts and messages as the files have them."""
    import datasets

    source = source_of(data)
    if source["path"] == "csv":
        return _load_any_bytes({**source, **_as_written(data, "csv", {})}, split)
    try:
        loaded = datasets.load_dataset(**source, split=split)
    except datasets.exceptions.DatasetGenerationError:
        if source["path"] != "json":
            raise
        # The first 10 MB may have nothing but nulls where later rows have values.
        early = next(iter(datasets.load_dataset(**source, streaming=True).values())).features
        if early is None:
            raise
        return replace(_load_any_bytes({**source, **_as_written(data, "json", early)}, split), features=early)
    one = loaded if split is not None else next(iter(loaded.values()))
    # Files in a folder, and on the hub, are known by their kind only now.
    exact = _as_written(data, one.info.builder_name, one.features)
    if not exact:
        return Loaded(rows=loaded, features=one.features)
    return replace(_load_any_bytes({**source, **exact}, split), features=one.features)


def _load_any_bytes(options: dict[str, Any], split: str | None) -> Loaded:
    """Return the source, with bytes that are not UTF-8 replaced, so that their rows alone are bad."""
    import datasets

    try:
        rows, is_utf8 = datasets.load_dataset(**options, split=split), True
    except datasets.exceptions.DatasetGenerationError:
        # `datasets` 5 decodes JSON itself only if the encoding is not called "utf-8".
        options = {**options, "encoding": "utf8", "encoding_errors": "replace"}
        rows, is_utf8 = datasets.load_dataset(**options, split=split), False
    one = rows if split is not None else next(iter(rows.values()))
    return Loaded(rows=rows, features=one.features, is_utf8=is_utf8)


def _as_written(data: HuggingFaceData, builder: str, features: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options by which a builder of `datasets` 5 reads our columns as their file has them.

    Left alone, it takes types from the first 10 MB of JSON and writes what has another type later as JSON text; it
    reads JSON within texts, and numbers and nulls within CSV.
    """
    import datasets

    texts = [name for name in (data.question, data.answer) if name is not None]
    if builder == "csv":
        kept = {"keep_default_na": False, "na_values": {data.images: [""]}}
        return {"converters": dict.fromkeys(texts, str), **kept}
    if builder == "imagefolder":  # whose metadata.csv may say 007
        numbers = [name for name in texts if (scalar(features.get(name)) or "").startswith(WHOLE)]
        as_text = {name: datasets.Value("string") for name in numbers}
        return {"features": datasets.Features({**features, **as_text})} if numbers else {}
    if builder != "json":
        return {}
    if texts:
        return {"on_mixed_types": None}
    wanted = (columns_of(data, features)["messages"], TOOLS)
    kinds = {name: features[name] for name in wanted if name in features}
    as_json = {
        name: datasets.Json() for name, kind in kinds.items() if no_messages(kind) is None or scalar(kind) == "null"
    }
    return {"features": datasets.Features({**widened(dict(features)), **as_json})}


def be_quiet() -> None:
    """Let `datasets` print nothing, as we raise what it logs about a broken file, and count no download on the hub."""
    import datasets

    # It reports downloads to the hub for local files too, and waits seconds for that without a network.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)


def source_of(data: HuggingFaceData) -> dict[str, Any]:
    """Return the arguments of `datasets.load_dataset` that name the source."""
    place = data.place("path")
    if place is None:
        return {"path": data.path}
    if place.is_dir():
        return {"path": str(place)}
    kind = _BUILDERS[place.suffix]
    # Columns such as id, source, model and system_prompt would make `datasets` 5 take rows for traces of agents.
    as_rows = {"parse_agent_traces": False} if kind == "json" else {}
    return {"path": kind, "data_files": str(place), **as_rows}


def _undecoded(rows: Any, column: str | None) -> Any:
    """Return the rows with images as bytes or paths, so that only ranks that need pixels decode them."""
    import datasets

    if column is None:
        return rows
    feature = rows.features[column]
    if isinstance(feature, datasets.Image):
        return rows.cast_column(column, datasets.Image(decode=False))
    if isinstance(getattr(feature, "feature", None), datasets.Image):
        return rows.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return rows


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".!") or type(error).__name__


MAX_EARLY_BYTES = 10 << 20
"""Beginning of a file that `datasets` takes columns and types from."""


def odd_line(file: Path | None, *, columns: Set[str] | None = None) -> str | None:
    """Return the first line of a JSONL that is unlike those before it, in words; None for other files.

    With `columns`, others do not count.
    """
    if file is None or file.suffix != ".jsonl" or not file.is_file():
        return None
    kinds: dict[str, str] = {}
    num_bytes = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line) if line.strip() else {}
            except ValueError as error:
                return f"line {number} is no JSON: {error}"
            if not isinstance(row, dict):
                return f"line {number} holds {_kind(row)}, and must be an object"
            for column, value in row.items():
                if columns is not None and column not in columns:
                    continue
                if num_bytes > MAX_EARLY_BYTES and column not in kinds:
                    return f"line {number} has a column {column!r}, which the first 10 MB have not"
                kind, before = _kind(value), kinds.get(column, "null")
                if "null" not in (kind, before) and kind != before:
                    return f"line {number}: {column!r} holds {kind}, and {before} in the lines before"
                kinds[column] = before if kind == "null" else kind
            num_bytes += len(line)
    return None


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {_kind(value[0])}" if value and _kind(value[0]) != "null" else "a list"
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", dict: "an object"}
    return names.get(type(value), "null")


def _remedy(split: Split) -> str:
    if split == "train":
        return 'name a split that it has, data.train = "..."'
    return f'name a split that it has, or parts of one: data.train = "train[:90%]" and data.{split} = "train[90%:]"'


HELD_OUT: tuple[Split, ...] = ("validation", "test")


def read_contents(data: HuggingFaceData, splits: Iterable[Split], *, most_images: int) -> Contents | None:
    """Open the files and count what they hold; None for a name on the hub, as that needs a network.

    Args:
        data: where the files are.
        splits: those that will be read; `train` is one of them.
        most_images: as many fit into a sequence; nothing trains on a sample that has more.

    Raises:
        DataError: as `open_rows` has it.
    """
    place = data.place("path")
    if place is None:
        return None
    opened = {split: open_rows(data, split) for split in splits}
    texts = {name for name in (data.question, data.answer) if name is not None}
    # Of a short file, `datasets` notices it.
    if place.stat().st_size > MAX_EARLY_BYTES and texts and (reason := odd_line(place, columns=texts)):
        raise DataError(f"data: {data.path}: cannot be read: {reason}; mend the file")
    train = opened["train"]
    counts = _image_counts(train)
    if counts and (fewest := min(counts)) > most_images:
        raise DataError(
            f"data: {data.path}, split {data.train!r}: every sample has more images than fit, the fewest "
            f"{fewest}, and a sequence holds {most_images}; use a longer seq_length or fewer images"
        )
    return Contents(
        num_samples={split: len(rows.table) for split, rows in opened.items()},
        most_images=None if counts is None else max(count for count in counts if count <= most_images),
        num_trained_on={split: shared for split in HELD_OUT if (shared := _num_shared(data, split, train.table))},
    )


def source_rows(spelled: str, rows: Any) -> list[tuple[str, range]] | None:
    """Which rows of the source a split takes, in order: splits by name, and rows of them, from 0.

    Args:
        spelled: the split as `datasets` spells it, such as `train[75%:]`.
        rows: any split of the same source.

    Returns:
        None where that cannot be known, or the source has no such split.
    """
    import datasets

    sizes = {name: split.num_examples for name, split in (rows.info.splits or {}).items()}
    try:
        parts = datasets.ReadInstruction.from_spec(spelled).to_absolute(sizes)
    except (ValueError, AssertionError):
        return None
    return [(part.splitname, range(part.from_, part.to)) for part in parts]


def file_rows(data: HuggingFaceData, split: Split, rows: Any) -> Sequence[range] | None:
    """Which rows of its file a split takes, in order, from 0; None for folders and names on the hub."""
    place = data.place("path")
    if place is None or not place.is_file():
        return None
    parts = source_rows(getattr(data, split), rows)
    return None if parts is None else [taken for _, taken in parts]


def row_at(parts: Sequence[range], row: int) -> int:
    """The row of the file that a split whose `parts` are known has as its own `row`."""
    return next(islice(chain.from_iterable(parts), row, None))


def _image_counts(rows: Rows) -> set[int] | None:
    """The numbers of images that rows have, each once; None where types do not tell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    named = {len(values) for values in images_of_messages(rows)}
    if "images" not in rows.columns:
        return named or {0}
    held = _arrow(rows.table, rows.columns["images"])
    if any(is_kind(held.type) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        counts = pc.list_value_length(held).fill_null(0)
    elif isinstance(held.type, pa.BaseExtensionType):  # of unlike things, which `datasets` keeps as JSON
        return None
    else:
        counts = held.is_valid().cast(pa.int32())
    return named.union(pc.unique(counts).to_pylist())


def _arrow(table: Any, column: str) -> Any:
    return table.select_columns([column]).with_format("arrow")[:].column(column)


def images_of_messages(rows: Rows) -> Iterator[list[Any]]:
    """Yield the values by which the messages of a row name images, for each row that names any."""
    positions = rows.naming_images
    if positions == []:
        return
    column = rows.columns["messages"]
    view = rows.table.select_columns([column])
    for row in view if positions is None else view.select(positions):
        found = [value for value in named_images(row[column]) if value is not None]
        if found:
            yield found


def _num_shared(data: HuggingFaceData, split: Split, train: Any) -> int:
    """Count the rows of a held-out split that are trained on, as far as known."""
    trained, held_out = (source_rows(spelled, train) or [] for spelled in (data.train, getattr(data, split)))
    return sum(
        len(range(max(ours.start, theirs.start), min(ours.stop, theirs.stop)))
        for name, ours in trained
        for other, theirs in held_out
        if name == other
    )
