"""The objects of one array in a JSON file, one after the other: a trace of any size is read in little memory."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mimo_bench.util import RecordError

_CHUNK = 1 << 20


def read_array(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of the array under `key` of the outermost object; the file may be gzipped.

    Raises:
        RecordError: there is no such array, or the file ends within it.
    """
    with _open(path) as file:
        buffer = _behind(path, file, f'"{key}"')
        yield from _objects(path, file, buffer)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8", errors="replace")


def _behind(path: Path, file: TextIO, quoted: str) -> str:
    """Return the text that was read of the file behind the bracket that opens the array."""
    buffer = ""
    while True:
        found = buffer.find(quoted)
        if found >= 0 and (bracket := buffer.find("[", found)) >= 0:
            return buffer[bracket + 1 :]
        chunk = file.read(_CHUNK)
        if not chunk:
            raise RecordError(f"{path}: no array {quoted}; it is no trace, or it was cut short: run again")
        # The key may lie across two chunks.
        buffer = (buffer[found:] if found >= 0 else buffer[-len(quoted) :]) + chunk


def _objects(path: Path, file: TextIO, buffer: str) -> Iterator[dict[str, Any]]:
    decoder, at = json.JSONDecoder(), 0
    while True:
        while at < len(buffer) and buffer[at] in " \t\r\n,":
            at += 1
        if at < len(buffer) and buffer[at] == "]":
            return
        try:
            value, at = decoder.raw_decode(buffer, at)
        except json.JSONDecodeError:
            chunk = file.read(_CHUNK)
            if not chunk:
                raise RecordError(f"{path}: ends in the middle of an array; it was cut short: run again") from None
            buffer, at = buffer[at:] + chunk, 0
            continue
        yield value
