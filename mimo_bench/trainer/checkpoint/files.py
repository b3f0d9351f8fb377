"""Checkpoints on disk: manifest, check of files, and the newest whole one of several.

No torch: whether a checkpoint can be used is decided from sizes and hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mimo_bench.models import StoredFile
from mimo_bench.util import CheckpointError, first_difference, write_atomically

MANIFEST = "checkpoint.json"
FORMAT_VERSION = 1
_NAME = re.compile(r"^step-(\d{8,})$")
_TEMPORARY = ".tmp"
_CHUNK_BYTES = 8 << 20


class CheckpointManifest(BaseModel):
    """Content of `checkpoint.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    num_steps: int
    """Optimizer steps taken: the next one reads the global batch of this number."""
    held_fixed: dict[str, Any]
    """Facts that a resumed training must share with this one: model, data, seed, batch, `training`."""
    layout: dict[str, dict[str, int]]
    """The grids that it was trained on, by module; for people."""
    files: dict[str, StoredFile]
    """By name, this file excepted."""


def path_of(directory: Path, num_steps: int) -> Path:
    """Return the path in `directory` of the checkpoint after `num_steps` steps."""
    return directory / f"step-{num_steps:08d}"


def temporary_of(path: Path) -> Path:
    """Return the temporary path under which the checkpoint `path` is written."""
    return path.with_name(f".{path.name}{_TEMPORARY}")


def saved_in(directory: Path) -> list[Path]:
    """The checkpoints in `directory`, newest first, whole or not; none where there is no such directory."""
    return [path for _, path in _numbered(directory)]


def outdated_in(directory: Path, *, num_steps: int, keep_last: int) -> list[Path]:
    """Return the checkpoints to remove after the one of `num_steps` steps: all but the newest `keep_last`.

    Later ones do not count: they are not whole, or training would have gone on from them.
    """
    return [path for step, path in _numbered(directory) if step <= num_steps][keep_last:]


def unfinished_in(directory: Path) -> list[Path]:
    """Checkpoints in `directory` that a process began to write; nothing but the room that they take is left of them."""
    return sorted(directory.glob(f".step-*{_TEMPORARY}"))


def _numbered(directory: Path) -> list[tuple[int, Path]]:
    """The checkpoints in `directory` with their steps, newest first."""
    if not directory.is_dir():
        return []
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.match(path.name))]
    return sorted(found, reverse=True)


def read_manifest(path: Path) -> CheckpointManifest:
    """The manifest of the checkpoint at `path`, whose files are all there in full size.

    Raises:
        CheckpointError: naming what is missing, cut short or of an unknown version.
    """
    manifest = path / MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{manifest}: no such file; name a directory that a training saved to") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{manifest}: cannot be read: {error}") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{manifest}: format_version = {version}; this mimo_bench reads {FORMAT_VERSION}")
    try:
        found = CheckpointManifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"{manifest}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for name, stored in found.files.items():
        if (problem := _wrong_size(path / name, stored)) is not None:
            raise CheckpointError(problem)
    return found


def check_continues(path: Path, manifest: CheckpointManifest, held_fixed: Mapping[str, Any]) -> None:
    """Refuse to resume from the checkpoint at `path` with what it was not trained with.

    Raises:
        CheckpointError: naming the first key that differs, with both values.
    """
    if (found := first_difference(manifest.held_fixed, held_fixed)) is not None:
        raise CheckpointError(
            f"{path}: is of another training: {found.key} = {found.now!r}, and it was {found.before!r}; resume "
            "with what it was, save to another directory, or start anew from its weights"
        )


def check_directory(directory: Path, held_fixed: Mapping[str, Any]) -> None:
    """Refuse to resume from `directory` if its manifests or the sizes of its files are wrong.

    Raises:
        CheckpointError: its newest checkpoint is of another training.
    """
    for path in saved_in(directory):
        try:
            manifest = read_manifest(path)
        except CheckpointError:
            continue  # the one before it is taken
        check_continues(path, manifest, held_fixed)
        break


def damaged(path: Path, files: Mapping[str, StoredFile]) -> str | None:
    """Describe the first of `files` that differs from what was written; None if all are whole."""
    for name, stored in files.items():
        if (problem := _wrong_size(path / name, stored)) is not None:
            return problem
        if stored_file(path / name).sha256 != stored.sha256:
            return f"{path / name}: its SHA-256 is not the one that was written; the file was changed"
    return None


def stored_file(path: Path) -> StoredFile:
    """Size and SHA-256 of a file, read from the disk and forced onto it."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            found.update(chunk)
        os.fsync(file.fileno())
        return StoredFile(num_bytes=file.tell(), sha256=found.hexdigest())


def write_json(path: Path, content: BaseModel) -> None:
    """Write `content` and force it onto the disk."""
    write_atomically(path, f"{json.dumps(content.model_dump(mode='json'), indent=2)}\n".encode())


def _wrong_size(path: Path, stored: StoredFile) -> str | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"{path}: no such file"
    return None if size == stored.num_bytes else f"{path}: has {size} bytes of {stored.num_bytes}; it was cut short"
