"""Records as files: a run's `run.json`, each layout's `layout.json` while the run lasts, each rank's JSON file.

Ranks import this module, so it reads and writes JSON only; `record/series.py` writes tables. Floats keep every bit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Never

from pydantic import BaseModel, ValidationError

from mimo_bench.record.schema.base import SCHEMA_VERSION
from mimo_bench.record.schema.layout import LayoutRecord, RankRecord
from mimo_bench.record.schema.run import RunRecord
from mimo_bench.util import RecordError, write_atomically

RUN_FILE: Final = "run.json"
_LAYOUT_FILES: Final = "layouts/*/layout.json"
_NO_RUN: Final = "give the directory that `mimo-bench run` wrote"
_NO_RANK: Final = "the rank ended before it could write; read the rank's log next to it"


def series_path(directory: Path, name: str) -> Path:
    """Return the path of the step series of the layout called `name` in the record at `directory`."""
    return directory / "layouts" / name / "steps.parquet"


def layout_path(directory: Path, name: str) -> Path:
    """Return the path of a layout's entry while the run in `directory` lasts."""
    return directory / "layouts" / name / "layout.json"


def write_run(directory: Path, record: RunRecord) -> Path:
    """Write the whole record as `run.json` into `directory`, remove every `layout.json`, and return the path."""
    path = write_atomically(directory / RUN_FILE, _text_of(record))
    for entry in directory.glob(_LAYOUT_FILES):
        entry.unlink()
    return path


def write_layout(directory: Path, layout: LayoutRecord) -> Path:
    """Write one layout's entry, which counts instead of the one in `run.json` until that is written again.

    Every layout of a matrix is written this way. With `run.json` alone, all that is written would grow with the square
    of the number of layouts.
    """
    return write_atomically(layout_path(directory, layout.name), (_to_json(layout), b"\n"))


def read_run(directory: Path) -> RunRecord:
    """Return the record in `directory`; of a run that has not finished, with the entries written since `run.json`.

    Raises:
        RecordError: it is missing, no JSON, of an unknown schema version, or a field is not what the schema says.
    """
    path = directory / RUN_FILE
    while True:
        before = _version_on_disk(path)
        record = _read_by_layout(path) or _read_at_once(path)
        if record.finished_at is None:
            entries = (_newer(directory, layout) for layout in record.layouts)
            record = record.model_copy(update={"layouts": tuple(entries)})
        # A writer of run.json removes each layout.json: an entry may have been gone before it was read.
        if _version_on_disk(path) == before:
            return record


def write_rank(path: Path, record: RankRecord) -> Path:
    """Write the record of one rank, and return its path."""
    # On one line: every rank of every launch writes thousands of numbers, for programs only.
    return write_atomically(path, (_to_json(record), b"\n"))


def read_rank(path: Path) -> RankRecord:
    """Return the record that one rank left at `path`.

    Raises:
        RecordError: it is missing, no JSON, or a field is not what the schema says.
    """
    return _validated(RankRecord, path, _text(path, remedy=_NO_RANK))


def _text_of(record: RunRecord) -> Iterator[bytes]:
    """Yield the text of `run.json`, one layout after the other: at once it takes as much memory as the record."""
    head = _to_json(record.model_copy(update={"layouts": ()}), indent=2)
    # JSON escapes a line break inside a string, and only the record's own members are indented by two spaces.
    before, after = head.split(b'\n  "layouts": []')
    yield before + b'\n  "layouts": ['
    for index, layout in enumerate(record.layouts):
        yield b",\n    " if index else b"\n    "
        yield _to_json(layout, indent=2).replace(b"\n", b"\n    ")
    yield b"\n  ]" + after + b"\n"


def _to_json(model: BaseModel, *, indent: int | None = None) -> bytes:
    # Straight from the objects to bytes, in the shortest digits that read back as the same float.
    content = type(model).__pydantic_serializer__.to_json(model, indent=indent)
    if b"NaN" in content or b"Infinity" in content:
        # Text may say so; a number is our own bug, and raises ValueError.
        json.dumps(model.model_dump(mode="json"), allow_nan=False)
    return content


def _version_on_disk(path: Path) -> tuple[int, int] | None:
    try:
        return (found := path.stat()).st_ino, found.st_mtime_ns
    except OSError:
        return None


def _newer(directory: Path, layout: LayoutRecord) -> LayoutRecord:
    path = layout_path(directory, layout.name)
    return _validated(LayoutRecord, path, _text(path, remedy="run again")) if path.exists() else layout


def _read_by_layout(path: Path) -> RunRecord | None:
    """Return a record that has the lines of `_text_of`, in the memory of one layout's text; None if it has not.

    The text and the parsed JSON of a thousand layouts on hundreds of ranks take more memory than the record.
    """
    around, entry, layouts = list[bytes](), list[bytes](), list[LayoutRecord]()
    try:
        with path.open("rb") as file:
            for line in file:
                around.append(line)
                if line == b'  "layouts": [\n':
                    break
            for line in file:
                if line in (b"  ],\n", b"  ]\n"):
                    around.append(line)
                    break
                entry.append(line)
                if line in (b"    },\n", b"    }\n"):
                    layouts.append(_layout(b"".join(entry).rstrip(b",\n")))
                    entry.clear()
            text = b"".join((*around, *entry, *file))
        members = _loads(text)
        record = RunRecord.model_validate_json(text)
    except (OSError, ValueError):
        # A mistake that reading at once will name, or other lines.
        return None
    _check_version(path, members)
    if layouts and record.layouts:
        # Those lines are of something else.
        return None
    return record.model_copy(update={"layouts": tuple(layouts)}) if layouts else record


def _layout(text: bytes) -> LayoutRecord:
    if b"NaN" in text or b"Infinity" in text:
        # Text may say so; a number is refused.
        _loads(text)
    return LayoutRecord.model_validate_json(text)


def _read_at_once(path: Path) -> RunRecord:
    text = _text(path, remedy=_NO_RUN)
    # The version comes first: another version may mean something else by a field.
    _check_version(path, _parse(path, text))
    return _validated(RunRecord, path, text)


def _text(path: Path, *, remedy: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {error}; {remedy}") from None


def _validated[Record: BaseModel](kind: type[Record], path: Path, text: str) -> Record:
    """Return the record in `text`, which was read from `path`.

    Raises:
        RecordError: naming every key that is wrong, its value and the remedy.
    """
    if "NaN" in text or "Infinity" in text:
        _parse(path, text)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        _parse(path, text)
        raise RecordError("\n".join(_explain(path, error))) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    """Return the JSON object in `text`.

    Raises:
        RecordError: it is something else; the message has the place.
    """
    try:
        content = _loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}: not valid JSON: {error}; the file was cut short or edited, run again") from None
    except ValueError as error:
        raise RecordError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise RecordError(f"{path}: holds {type(content).__name__} where an object is expected; run again")
    return content


def _loads(text: str | bytes) -> Any:
    """Parse JSON; ValueError if it is none, or holds a member twice, NaN or an infinity."""
    return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)


def _refuse(constant: str) -> Never:
    raise ValueError(f"holds {constant}, which is not JSON; an unknown number is null")


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        twice = next(name for name, number in Counter(name for name, _ in members).items() if number > 1)
        raise ValueError(f"{twice}: is there twice; the file was edited, run again")
    return found


def _check_version(path: Path, members: Mapping[str, Any]) -> None:
    if "schema_version" not in members:
        raise RecordError(f"{path}: schema_version is missing; this is no record of mimo_bench, or it was edited")
    version = members["schema_version"]
    # `True == 1` in Python, but not in a record.
    if type(version) is not int or version != SCHEMA_VERSION:
        raise RecordError(
            f"{path}: schema_version = {json.dumps(version)} is unknown; this mimo_bench reads schema_version "
            f"{SCHEMA_VERSION}: use the mimo_bench that wrote the record, or run again"
        )


def _explain(path: Path, error: ValidationError) -> Iterator[str]:
    """Yield each of pydantic's complaints in the words of the file: key, value, remedy."""
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            yield f"{path}: {key}: is missing; the record was edited or its writer has a bug, run again"
            continue
        shown = problem["input"]
        value = f"{json.dumps(shown)}: " if not isinstance(shown, dict | list) else ""
        reason = problem["msg"]
        yield f"{path}: {key}: {value}{reason[:1].lower()}{reason[1:]}; restore the value or run again"
