"""A JSON file of any size, piece by piece, in the memory that its largest piece takes.

A piece is a member of the outermost object, or an item of the one array in it that is long. It comes as text, which
pydantic checks: parsers that stream hand out values only, and those would have to be written anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final, Never, TextIO

from mimo_bench.util import RecordError

Place = tuple[str] | tuple[str, int]
"""A member's name, and an item's index where its array is split: what pydantic calls `loc`."""

_CHUNK: Final = 1 << 20
_LONGEST_REST: Final = len("e+1")
"""Characters behind a number that decide whether it goes on."""
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def pieces(path: Path, file: TextIO, *, split: str) -> Iterator[tuple[Place, str]]:
    """Yield every member of the object in `file`; the array called `split` as an empty one, and then its items.

    Raises:
        RecordError: what is at `path` is not one JSON object, or it holds NaN or an infinity.
    """
    text = _Text(path, file)
    if text.peek() != "{":
        raise RecordError(f"{path}: holds {text.kind()} where an object is expected; run again")
    for _ in _elements(text, "{", "}"):
        name = text.name()
        if name == split and text.peek() == "[":
            yield (name,), "[]"
            for index in _elements(text, "[", "]"):
                yield (name, index), text.value()[1]
        else:
            yield (name,), text.value()[1]
    text.take("")


def _elements(text: _Text, opening: str, closing: str) -> Iterator[int]:
    """Count what stands between two brackets, in front of each; whoever asks for the next has read it."""
    text.take(opening)
    if text.peek() == closing:
        text.take(closing)
        return
    for index in count():
        yield index
        if text.take(",", closing) == closing:
            return


class _Text:
    """JSON text, from where it was read to; what was read is gone."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._decoder = json.JSONDecoder(parse_constant=self._refuse)
        self._buffer, self._at = "", 0
        self._chars_gone = self._lines_gone = 0

    def peek(self) -> str:
        """The next character that is no white space; none at the end of the file."""
        while True:
            space = _SPACE.match(self._buffer, self._at)
            assert space is not None
            self._at = space.end()
            if self._at < len(self._buffer) or not self._read_on():
                return self._buffer[self._at : self._at + 1]

    def take(self, *wanted: str) -> str:
        """The next character, which has to be one of those wanted, or the end of the file where that is `""`."""
        if (found := self.peek()) not in wanted:
            raise self._wrong(f"Expecting {' or '.join(map(repr, wanted))}" if any(wanted) else "Extra data", self._at)
        self._at += len(found)
        return found

    def name(self) -> str:
        """The name of a member, and the colon behind it."""
        if self.peek() != '"':
            raise self._wrong("Expecting a name in double quotes", self._at)
        name, _ = self.value()
        self.take(":")
        return str(name)

    def value(self) -> tuple[Any, str]:
        """The next value, and its text."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                # Wrong, or it goes on behind what was read of the file.
                if self._read_on():
                    continue
                raise self._wrong(error.msg, error.pos) from None
            # A number that was cut in two is a number too.
            if len(self._buffer) - end < _LONGEST_REST and self._read_on():
                continue
            text = self._buffer[self._at : end]
            self._at = end
            return value, text

    def kind(self) -> str:
        """What the one value is that the file consists of."""
        value, _ = self.value()
        self.take("")
        return type(value).__name__

    def _read_on(self) -> bool:
        """Whether the file went on; if not, everything stays where it is."""
        # As much again as a value that did not end so far, so that a long one is parsed only a few times.
        chunk = self._file.read(max(_CHUNK, len(self._buffer) - self._at))
        if not chunk:
            return False
        self._chars_gone += self._at
        self._lines_gone += self._buffer.count("\n", 0, self._at)
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        return True

    def _wrong(self, what: str, at: int) -> RecordError:
        line = self._lines_gone + self._buffer.count("\n", 0, at) + 1
        return RecordError(
            f"{self._path}: not valid JSON: {what}: line {line} (char {self._chars_gone + at}); the file was cut short "
            f"or edited, run again"
        )

    def _refuse(self, constant: str) -> Never:
        raise RecordError(f"{self._path}: holds {constant}, which is not JSON; an unknown number is null")
