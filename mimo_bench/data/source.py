"""Rows of a user's own files through `datasets`: opened, checked by column, and counted.

Sources are JSONL, Parquet, CSV, folders of images, or a name on the hub. Files are read with the scenario, before
anything starts; `datasets` caches them and ranks open the cache. What cannot be read is a DataError that names file,
split and remedy. Checks and counts use the columns' types and lengths, so no image is opened; what types leave open,
such as lists of mixed types, is reported for each sample when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mimo_bench.data.config import Contents, HuggingFaceData, Split
from mimo_bench.util import DataError, choices


class BadSample(Exception):  # noqa: N818  # a finding about one sample; the reader raises it as an error or skips the sample
    """Reason why a sample cannot be trained on; the caller adds its name."""


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def open_rows(data: HuggingFaceData, split: Split) -> Any:
    """The rows of one split, as a `datasets.Dataset` whose images are not decoded.

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
        rows = datasets.load_dataset(**source_of(data), split=wanted)
    except datasets.exceptions.DatasetGenerationError as error:
        raise DataError(f"{where}: cannot be read: {_first_line(error.__cause__ or error)}; mend the file") from None
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: cannot be read: {_first_line(error)}; mend the file") from None
    except StopIteration:
        raise DataError(f"{where}: holds no samples; give a file that does") from None
    except (ValueError, OSError, ArithmeticError, LookupError) as error:
        raise DataError(f"{where}: {_first_line(error)}; {_remedy(split)}") from None
    if not len(rows):
        raise DataError(f"{where}: holds no samples; {_remedy(split)}")
    for key, column in data.columns.items():
        if column not in rows.column_names:
            remedy = _column_remedy(key, column, others=set(rows.column_names) - set(data.columns.values()))
            raise DataError(f"{where}: has no column {column!r}, which data.{key} names; {remedy}")
    for reason in wrong_columns(data, rows.features):
        raise DataError(f"{where}: {reason}")
    return _undecoded(rows, data.images)


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
    return {"path": _BUILDERS[place.suffix], "data_files": str(place)}


def _undecoded(rows: Any, column: str) -> Any:
    """Return the rows with images as bytes or paths, so that only ranks that need pixels decode them."""
    import datasets

    feature = rows.features[column]
    if isinstance(feature, datasets.Image):
        return rows.cast_column(column, datasets.Image(decode=False))
    if isinstance(getattr(feature, "feature", None), datasets.Image):
        return rows.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return rows


def image_sources(value: Any, *, folder: Path | None) -> list[Path | bytes]:
    """Return paths or bytes of a row's images, from one or several paths or images, or None for none.

    Args:
        value: what the column holds.
        folder: the folder that relative paths start from.

    Raises:
        BadSample: it holds something else.
    """
    values: Iterable[Any] = value if isinstance(value, list) else [] if value is None else [value]
    return [_image_source(one, folder=folder) for one in values]


def _image_source(value: Any, *, folder: Path | None) -> Path | bytes:
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            content: bytes = value["bytes"]
            return content
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise BadSample(f"has {value!r} among its images; give the path of an image, or an empty list for none")
    if _URL.match(value):
        raise BadSample(f"has {value!r} among its images, and URLs are not fetched; save it, and give its path")
    return Path(value) if folder is None else folder / value


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".!") or type(error).__name__


def _column_remedy(key: str, column: str, *, others: Set[str]) -> str:
    """Return the remedy for a missing column; columns that another key names are not offered."""
    if not others:
        return "and no column that another key does not name already; add it"
    remedy = f"set data.{key} to the column that holds them: {choices(column, sorted(others))}"
    return (
        f"{remedy}; or data.question and data.answer to columns of one question each" if key == "messages" else remedy
    )


def _remedy(split: Split) -> str:
    if split == "train":
        return 'name a split that it has, data.train = "..."'
    return f'name a split that it has, or parts of one: data.train = "train[:90%]" and data.{split} = "train[90%:]"'


_TEXT = ("string", "large_string")
_MESSAGE = ("role", "content")


def wrong_columns(data: HuggingFaceData, features: Any) -> Iterator[str]:
    """Yield reason and remedy for each column whose type in `features` does not fit its key."""
    for key, column in data.columns.items():
        feature = features[column]
        match key:
            case "images":
                reason = _no_images(feature)
            case "messages":
                reason = _no_messages(feature)
            case _:
                reason = _no_text(feature)
        if reason is not None:
            yield f"column {column!r}, which data.{key} names, {reason}"


def holds_paths(feature: Any) -> bool:
    """True if a column of images can hold only paths, one or several a row; False for None."""
    inner = _listed(feature)
    return _scalar(feature if inner is None else inner) in _TEXT


def _no_images(feature: Any) -> str | None:
    inner = _listed(feature)
    kind = _scalar(feature if inner is None else inner)
    if kind is None or kind in (*_TEXT, "null"):
        return None
    return f"holds {kind}; give it paths of images, or images"


def _no_messages(feature: Any) -> str | None:
    inner = _listed(feature)
    if inner is None:
        kind = _scalar(feature)
        return None if kind is None else f"holds {kind}; give it lists of messages with {' and '.join(_MESSAGE)}"
    if isinstance(inner, dict) and (missing := [name for name in _MESSAGE if name not in inner]):
        return f"holds messages of {' and '.join(inner)}, without {' and '.join(missing)}; rename what stands for them"
    return None


def _no_text(feature: Any) -> str | None:
    kind = "lists" if _listed(feature) is not None else _scalar(feature)
    # A whole number is written in one way only; of a broken one, `5.0` may have been `5`.
    if kind is None or kind in _TEXT or kind.startswith(("int", "uint")):
        return None
    return f"holds {kind}; give it text, in quotes where the file is JSONL"


def _listed(feature: Any) -> Any:
    """Return the element type of a list type; None for others."""
    return getattr(feature, "feature", None)


def _scalar(feature: Any) -> str | None:
    """The type of single values, such as `int64`; None of anything else, images among them."""
    import datasets

    return str(feature.dtype) if isinstance(feature, datasets.Value) else None


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
    if data.place("path") is None:
        return None
    opened = {split: open_rows(data, split) for split in splits}
    train = opened["train"]
    return Contents(
        num_samples={split: len(rows) for split, rows in opened.items()},
        most_images=_most_images(train, data.images, at_most=most_images),
        num_trained_on={split: shared for split in HELD_OUT if (shared := _num_shared(data, split, train))},
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


def _most_images(rows: Any, column: str, *, at_most: int) -> int | None:
    """The most images that a row has, those left out that have more than `at_most`; None where types do not tell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    held = rows.select_columns([column]).with_format("arrow")[:].column(column)
    if any(is_kind(held.type) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        counts = pc.list_value_length(held)
    elif isinstance(held.type, pa.BaseExtensionType):  # of unlike things, which `datasets` keeps as JSON
        return None
    else:
        counts = held.is_valid().cast(pa.int32())
    return pc.max(counts.filter(pc.less_equal(counts, at_most))).as_py() or 0


def _num_shared(data: HuggingFaceData, split: Split, train: Any) -> int:
    """Count the rows of a held-out split that are trained on, as far as known."""
    trained, held_out = (source_rows(spelled, train) or [] for spelled in (data.train, getattr(data, split)))
    return sum(
        len(range(max(ours.start, theirs.start), min(ours.stop, theirs.stop)))
        for name, ours in trained
        for other, theirs in held_out
        if name == other
    )
