"""Records as files: a run's `run.json` and the small JSON file that every rank leaves behind.

scenario -> layout -> trainer -> meters -> [record] -> parity -> report

Ranks import this room, so it reads and writes JSON only; tables are written by `record/series.py`. A file appears
whole or not at all: it is written under a temporary name beside its place and renamed. Floats keep every bit.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Never

from pydantic import BaseModel, ValidationError

from mimo_bench.errors import RecordError
from mimo_bench.record.schema import SCHEMA_VERSION, RankRecord, RunRecord

RUN_FILE = "run.json"


def series_path(directory: Path, name: str) -> Path:
    """Where the step series of the layout called `name` lies in the record at `directory`."""
    return directory / "layouts" / name / "steps.parquet"


def write_run(directory: Path, record: RunRecord) -> Path:
    """Write `run.json` into `directory`, replacing an older one, and return its path."""
    return _write_model(directory / RUN_FILE, record)


def read_run(directory: Path) -> RunRecord:
    """The record in `directory`.

    Raises:
        RecordError: it is missing, no JSON, of an unknown schema version, or a field is not what the schema says.
    """
    path = directory / RUN_FILE
    text = _read_text(path, remedy="give the directory that `mimo-bench run` wrote")
    # The version comes first: what another version means by a field is not ours to judge.
    _check_version(path, _read_head(path, text))
    return _validate(path, RunRecord, text)


def write_rank(path: Path, record: RankRecord) -> Path:
    """Write what one rank leaves behind, and return its path."""
    # On one line: nobody reads it, and every rank of every launch writes thousands of numbers.
    return _write_model(path, record, indent=None)


def read_rank(path: Path) -> RankRecord:
    """What one rank left behind at `path`.

    Raises:
        RecordError: it is missing, no JSON, or a field is not what the schema says.
    """
    text = _read_text(path, remedy="the rank ended before it could write; read the rank's log beside it")
    _read_head(path, text)
    return _validate(path, RankRecord, text)


def write_atomically(path: Path, *content: bytes) -> Path:
    """Put `content` at `path` in one move, on disk before it shows: a reader meets the old file or the whole new one.

    Folders on the way are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, so the rename never crosses a file system; own process id, so two writers never share a name.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def is_temporary(path: Path) -> bool:
    """Whether `path` is what `write_atomically` leaves where it is killed half-way."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def sweep(directory: Path) -> None:
    """Remove what writers that were killed left unfinished in and below `directory`."""
    for path in directory.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _write_model(path: Path, model: BaseModel, *, indent: int | None = 2) -> Path:
    # Straight from the objects to bytes, in the shortest digits that read back as the same float.
    content = type(model).__pydantic_serializer__.to_json(model, indent=indent)
    if b"NaN" in content or b"Infinity" in content:
        # Text may say so; a number is our own bug, and raises ValueError.
        json.dumps(model.model_dump(mode="json"), allow_nan=False)
    return write_atomically(path, content, b"\n")


def _read_text(path: Path, *, remedy: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {error}; {remedy}") from None


class _Head(BaseModel):
    """What says how the rest is to be read; the rest is passed over."""

    schema_version: Any = None


def _read_head(path: Path, text: str) -> dict[str, Any]:
    """The head of a record, which is JSON throughout."""
    if "NaN" not in text and "Infinity" not in text:
        with suppress(ValidationError):
            return _Head.model_validate_json(text).model_dump(exclude_unset=True)
    # Slower, and it says what is wrong.
    return _parse(path, text)


def _parse(path: Path, text: str) -> dict[str, Any]:
    def refuse(constant: str) -> Never:
        raise RecordError(f"{path}: holds {constant}, which is not JSON; an unknown number is null")

    try:
        content = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}: not valid JSON: {error}; the file was cut short or edited, run again") from None
    if not isinstance(content, dict):
        raise RecordError(f"{path}: holds {type(content).__name__} where a record is expected; run again")
    return content


def _check_version(path: Path, content: dict[str, Any]) -> None:
    if "schema_version" not in content:
        raise RecordError(f"{path}: schema_version is missing; this is no record of mimo_bench, or it was edited")
    version = content["schema_version"]
    # `True == 1` in Python, but not in a record.
    if type(version) is not int or version != SCHEMA_VERSION:
        raise RecordError(
            f"{path}: schema_version = {json.dumps(version)} is unknown; this mimo_bench reads schema_version "
            f"{SCHEMA_VERSION}: use the mimo_bench that wrote the record, or run again"
        )


def _validate[Record: BaseModel](path: Path, schema: type[Record], text: str) -> Record:
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        raise RecordError("\n".join(_explain(path, problem) for problem in error.errors())) from None


def _explain(path: Path, problem: Any) -> str:
    """One pydantic error in the words of the file: key, value, remedy."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{path}: {key}: is missing; the record was edited or its writer has a bug, run again"
    shown = problem["input"]
    value = f"{json.dumps(shown)}: " if not isinstance(shown, dict | list) else ""
    reason = problem["msg"]
    return f"{path}: {key}: {value}{reason[:1].lower()}{reason[1:]}; restore the value or run again"
