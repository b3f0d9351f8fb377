"""Records as files: a run's `run.json` and the small JSON file that every rank leaves behind.

Ranks import this room, so it reads and writes JSON only; tables are written by `record/series.py`. A file appears
whole or not at all: it is written under a temporary name beside its place and renamed. Floats keep every bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, ValidationError

from mimo_bench.record.pieces import pieces
from mimo_bench.record.schema import SCHEMA_VERSION, LayoutRecord, RankRecord, RunRecord
from mimo_bench.util import RecordError, write_atomically

RUN_FILE = "run.json"


def series_path(directory: Path, name: str) -> Path:
    """Where the step series of the layout called `name` lies in the record at `directory`."""
    return directory / "layouts" / name / "steps.parquet"


def write_run(directory: Path, record: RunRecord) -> Path:
    """Write `run.json` into `directory`, replacing an older one, and return its path."""
    return write_atomically(directory / RUN_FILE, _text_of(record))


def read_run(directory: Path) -> RunRecord:
    """The record in `directory`.

    Raises:
        RecordError: it is missing, no JSON, of an unknown schema version, or a field is not what the schema says.
    """
    path = directory / RUN_FILE
    with _opened(path, remedy="give the directory that `mimo-bench run` wrote") as file:
        members, layouts, problems = _split(path, file)
    # The version comes first: what another version means by a field is not ours to judge.
    _check_version(path, members)
    head = ", ".join(f"{json.dumps(name)}: {text}" for name, text in members.items())
    try:
        record = RunRecord.model_validate_json(f"{{{head}}}")
    except ValidationError as error:
        problems = [*_explain(path, error), *problems]
    if problems:
        raise RecordError("\n".join(problems))
    return record.model_copy(update={"layouts": tuple(layouts)})


def write_rank(path: Path, record: RankRecord) -> Path:
    """Write what one rank leaves behind, and return its path."""
    # On one line: nobody reads it, and every rank of every launch writes thousands of numbers.
    return write_atomically(path, (_to_json(record), b"\n"))


def read_rank(path: Path) -> RankRecord:
    """What one rank left behind at `path`.

    Raises:
        RecordError: it is missing, no JSON, or a field is not what the schema says.
    """
    with _opened(path, remedy="the rank ended before it could write; read the rank's log beside it") as file:
        text = file.read()
    if "NaN" in text or "Infinity" in text:
        # Text may say so; a number is refused.
        _check_json(path, text)
    try:
        return RankRecord.model_validate_json(text)
    except ValidationError as error:
        _check_json(path, text)
        raise RecordError("\n".join(_explain(path, error))) from None


def _text_of(record: RunRecord) -> Iterator[bytes]:
    """The text of `run.json`, one layout after the other: as a whole it takes as much memory as the record."""
    head = _to_json(record.model_copy(update={"layouts": ()}), indent=2)
    # A line break inside a string is written as an escape, and only the record's own members are two spaces in.
    before, behind = head.split(b'\n  "layouts": []')
    yield before + b'\n  "layouts": ['
    for index, layout in enumerate(record.layouts):
        yield b",\n    " if index else b"\n    "
        yield _to_json(layout, indent=2).replace(b"\n", b"\n    ")
    yield b"\n  ]" + behind + b"\n"


def _to_json(model: BaseModel, *, indent: int | None = None) -> bytes:
    # Straight from the objects to bytes, in the shortest digits that read back as the same float.
    content = type(model).__pydantic_serializer__.to_json(model, indent=indent)
    if b"NaN" in content or b"Infinity" in content:
        # Text may say so; a number is our own bug, and raises ValueError.
        json.dumps(model.model_dump(mode="json"), allow_nan=False)
    return content


@contextmanager
def _opened(path: Path, *, remedy: str) -> Iterator[TextIO]:
    """The file at `path`, for as long as it is read."""
    try:
        with path.open(encoding="utf-8") as file:
            yield file
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {error}; {remedy}") from None


def _split(path: Path, file: TextIO) -> tuple[dict[str, str], list[LayoutRecord], list[str]]:
    """The text of each member, without layouts; the layouts, each validated by itself; what is wrong with them."""
    # As a whole, text and parsed JSON of a thousand layouts on hundreds of ranks take more memory than the record.
    members, layouts, problems = dict[str, str](), list[LayoutRecord](), list[str]()
    for place, text in pieces(path, file, split="layouts"):
        if len(place) > 1:
            try:
                layouts.append(LayoutRecord.model_validate_json(text))
            except ValidationError as error:
                problems += _explain(path, error, *place)
        elif place[0] in members:
            raise RecordError(f"{path}: {place[0]}: is there twice; the file was edited, run again")
        else:
            members[place[0]] = text
    return members, layouts, problems


def _check_json(path: Path, text: str) -> None:
    """Refuse what is no JSON object throughout, and say where."""
    for _ in pieces(path, StringIO(text), split=""):
        pass


def _check_version(path: Path, members: Mapping[str, str]) -> None:
    if (text := members.get("schema_version")) is None:
        raise RecordError(f"{path}: schema_version is missing; this is no record of mimo_bench, or it was edited")
    version = json.loads(text)
    # `True == 1` in Python, but not in a record.
    if type(version) is not int or version != SCHEMA_VERSION:
        raise RecordError(
            f"{path}: schema_version = {json.dumps(version)} is unknown; this mimo_bench reads schema_version "
            f"{SCHEMA_VERSION}: use the mimo_bench that wrote the record, or run again"
        )


def _explain(path: Path, error: ValidationError, *place: str | int) -> Iterator[str]:
    """What pydantic says of the value at `place`, in the words of the file: key, value, remedy."""
    for problem in error.errors():
        key = ".".join(map(str, (*place, *problem["loc"])))
        if problem["type"] == "missing":
            yield f"{path}: {key}: is missing; the record was edited or its writer has a bug, run again"
            continue
        shown = problem["input"]
        value = f"{json.dumps(shown)}: " if not isinstance(shown, dict | list) else ""
        reason = problem["msg"]
        yield f"{path}: {key}: {value}{reason[:1].lower()}{reason[1:]}; restore the value or run again"
