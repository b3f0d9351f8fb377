"""Rows of a user's own files, through `datasets`: JSONL, Parquet, CSV, folders of images, or a name on the hub.

What cannot be read is a DataError that names file, split and remedy, before the first row is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mimo_bench.data_section import HuggingFaceData
from mimo_bench.errors import DataError
from mimo_bench.suggest import choices
from mimo_bench.trainer.data.sample import Split

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def open_rows(data: HuggingFaceData, split: Split) -> Any:
    """The rows of one split, as a `datasets.Dataset` whose images are not decoded.

    Raises:
        DataError: the source cannot be read, lacks the split or a column, or is empty.
    """
    # Imported here: it brings pandas along, which ranks that train on anything else should not pay for.
    import datasets

    datasets.disable_progress_bars()
    wanted = getattr(data, split)
    where = f"data: {data.path}, split {wanted!r}"
    try:
        rows = datasets.load_dataset(**_source(data), split=wanted)
    except datasets.exceptions.DatasetGenerationError as error:
        raise DataError(f"{where}: cannot be read: {_first_line(error.__cause__ or error)}; mend the file") from None
    except StopIteration:
        raise DataError(f"{where}: holds no samples; give a file that does") from None
    except (ValueError, OSError, ArithmeticError, LookupError) as error:
        raise DataError(f"{where}: {_first_line(error)}; {_remedy(split)}") from None
    if not len(rows):
        raise DataError(f"{where}: holds no samples; {_remedy(split)}")
    for key, column in data.columns.items():
        if column not in rows.column_names:
            remedy = choices(column, rows.column_names)
            raise DataError(f"{where}: has no column {column!r}, which data.{key} names; {remedy}")
    return _undecoded(rows, data.images)


def _source(data: HuggingFaceData) -> dict[str, Any]:
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
    """
    values: Iterable[Any] = value if isinstance(value, list) else [] if value is None else [value]
    return [_image_source(one, beside=beside) for one in values]


def _image_source(value: Any, *, beside: Path | None) -> Path | bytes:
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            content: bytes = value["bytes"]
            return content
        value = value["path"]
    return Path(value) if beside is None else beside / value


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _remedy(split: Split) -> str:
    if split == "train":
        return 'name a split that it has, data.train = "..."'
    return f'name a split that it has, or a part of one: data.{split} = "train[90%:]"'
