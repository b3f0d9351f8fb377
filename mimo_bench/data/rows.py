"""Rows of a user's own files, through `datasets`: JSONL, Parquet, CSV, folders of images, or a name on the hub.

What cannot be read is a DataError that names file, split and remedy, before the first row is asked for. Files are read
when their scenario is, before anything starts; `datasets` keeps what it read, and ranks open that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from mimo_bench.data.columns import wrong_columns
from mimo_bench.data.config import HuggingFaceData, Split
from mimo_bench.util import DataError, choices


class BadSample(Exception):  # noqa: N818  # a finding about one sample; who reads it makes an error of it or passes on
    """Why a sample cannot be trained on; the one who knows its name adds it."""


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

    # It asks the hub to count also where a file of one's own is read, and waits seconds for that without a network.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)


def source_of(data: HuggingFaceData) -> dict[str, Any]:
    """What `datasets.load_dataset` is told of where the rows are."""
    place = data.place("path")
    if place is None:
        return {"path": data.path}
    if place.is_dir():
        return {"path": str(place)}
    return {"path": _BUILDERS[place.suffix], "data_files": str(place)}


def _undecoded(rows: Any, column: str) -> Any:
    """The rows with images as bytes or paths: whoever needs pixels decodes them, and nobody else."""
    import datasets

    feature = rows.features[column]
    if isinstance(feature, datasets.Image):
        return rows.cast_column(column, datasets.Image(decode=False))
    if isinstance(getattr(feature, "feature", None), datasets.Image):
        return rows.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return rows


def image_sources(value: Any, *, beside: Path | None) -> list[Path | bytes]:
    """Where the images of a row are: its column holds one or several paths, or images; None for none.

    Args:
        value: what the column holds.
        beside: the folder that relative paths start from.

    Raises:
        BadSample: it holds something else.
    """
    values: Iterable[Any] = value if isinstance(value, list) else [] if value is None else [value]
    return [_image_source(one, beside=beside) for one in values]


def _image_source(value: Any, *, beside: Path | None) -> Path | bytes:
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            content: bytes = value["bytes"]
            return content
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise BadSample(f"has {value!r} among its images; give the path of an image, or an empty list for none")
    if _URL.match(value):
        raise BadSample(f"has {value!r} among its images, and URLs are not fetched; save it, and give its path")
    return Path(value) if beside is None else beside / value


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".!") or type(error).__name__


def _column_remedy(key: str, column: str, *, others: Set[str]) -> str:
    """What to write for a column that is missing; those that another key names are not meant."""
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
