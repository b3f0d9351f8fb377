"""A safetensors file as bytes: where its tensors lie, and a writer that holds none of them.

The format: eight bytes with the length of the header, the header in JSON (dtype, shape and place of each tensor), and
the tensors one behind the other. The library checks every header; it writes only what is in memory as a whole, so
writing is ours.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from safetensors import SafetensorError, safe_open

from mimo_bench.util import WeightsError

_LFS_POINTER = b"version https://git-lfs"

CHUNK_BYTES = 4 << 20
"""Read and written at once; all that a tensor's way from file to file ever holds in memory."""

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Sizes of the dtypes, as safetensors spells them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """Entry of a tensor in a header."""

    name: str
    dtype: str
    """As safetensors spells it: `F32`, `BF16`."""
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """The size of the tensor."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor where it lies."""

    path: Path
    spec: TensorSpec
    start: int
    """Of its first byte in the file."""

    def read(self, start: int = 0, num_bytes: int | None = None) -> Iterator[bytes]:
        """The tensor's bytes from `start` on, a chunk at a time.

        Raises:
            WeightsError: the file became shorter since its header was read.
        """
        left = self.spec.num_bytes - start if num_bytes is None else num_bytes
        with self.path.open("rb") as file:
            file.seek(self.start + start)
            while left:
                if not (chunk := file.read(min(left, CHUNK_BYTES))):
                    raise WeightsError(f"{self.path}: ends inside {self.spec.name}; fetch the file again")
                left -= len(chunk)
                yield chunk


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a file by name, without its content.

    Raises:
        WeightsError: it is no safetensors file, was cut short, or holds a dtype that is not known here.
    """
    try:
        refuse_pointer(path)
        # Opening checks that the tensors fill the file, without a gap and without a byte too few or too many.
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; fetch it, or name a directory that is complete") from None
    except SafetensorError as error:
        raise WeightsError(f"{path}: no whole safetensors file: {error}; fetch it again") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in ITEM_BYTES:
            known = ", ".join(ITEM_BYTES)
            raise WeightsError(f"{path}: {name}: dtype {entry['dtype']} is not built; convert it to one of {known}")
    return {
        name: StoredTensor(
            path=path,
            spec=TensorSpec(name=name, dtype=entry["dtype"], shape=tuple(entry["shape"])),
            start=8 + length + entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def refuse_pointer(path: Path) -> None:
    """Refuse a pointer of Git LFS in place of a file.

    Raises:
        WeightsError: with the command that fetches the file.
    """
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise WeightsError(f"{path}: is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`")


class TensorWriter:
    """A new safetensors file, written tensor by tensor in the order of its header; its hash is taken on the way."""

    def __init__(self, path: Path, specs: Sequence[TensorSpec], *, metadata: Mapping[str, str] | None = None) -> None:
        """Write the header of a file that shall hold `specs`; wide items lie first, so that each is aligned."""
        self.order = sorted(specs, key=lambda spec: (-ITEM_BYTES[spec.dtype], spec.name))
        """The order in which tensors have to be written: equal tensors make equal files."""
        self._due = iter(self.order)
        self._hash = hashlib.sha256()
        self._file = path.open("xb")
        self._num_bytes = 0
        self._put(header_of(self.order, metadata))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            assert next(self._due, None) is None, "a tensor was never written"
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Append the next tensor of the header."""
        spec, start = next(self._due), self._num_bytes
        assert spec.name == name, f"{spec.name} is due, not {name}"
        for chunk in chunks:
            self._put(chunk)
        assert self._num_bytes - start == spec.num_bytes, f"{name} has {self._num_bytes - start} bytes"

    @property
    def num_bytes(self) -> int:
        """The size of the file so far."""
        return self._num_bytes

    @property
    def sha256(self) -> str:
        """The hash of the file so far."""
        return self._hash.hexdigest()

    def _put(self, chunk: bytes | memoryview) -> None:
        self._file.write(chunk)
        self._hash.update(chunk)
        self._num_bytes += len(chunk)


def header_of(specs: Sequence[TensorSpec], metadata: Mapping[str, str] | None = None) -> bytes:
    """The header of a file that holds `specs` one behind the other, with its length before it."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for spec in specs:
        start, end = end, end + spec.num_bytes
        header[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
