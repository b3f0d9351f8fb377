"""Tensors on their way from file to file, in chunks: stacked, taken apart, or as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimo_bench.models.hf.directory import StoredFile
from mimo_bench.models.hf.safetensors import StoredTensor, TensorSpec, TensorWriter
from mimo_bench.models.hf.spelling import Spelling
from mimo_bench.models.table import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """A tensor on its way from file to file; nothing of it is read before it is written."""

    spec: TensorSpec
    chunks: Iterator[bytes]


def stack(row: Row, parts: Sequence[StoredTensor]) -> Stream:
    """Return a parameter, made of its parts block by block."""
    sizes = [row.block_bytes(part.spec.num_bytes) for part in parts]

    def chunks() -> Iterator[bytes]:
        for block in range(row.groups):
            for part, size in zip(parts, sizes, strict=True):
                yield from part.read(block * size, size)

    return Stream(spec=TensorSpec(name=row.name, dtype=parts[0].spec.dtype, shape=row.shape), chunks=chunks())


def unstack(row: Row, whole: StoredTensor, spelling: Spelling) -> Iterator[Stream]:
    """Yield the parts of a parameter, each gathered from its blocks."""
    specs = [TensorSpec(name=part.spelled(spelling), dtype=whole.spec.dtype, shape=part.shape) for part in row.parts]
    sizes = [row.block_bytes(spec.num_bytes) for spec in specs]

    def chunks(start: int, size: int) -> Iterator[bytes]:
        for block in range(row.groups):
            yield from whole.read(block * sum(sizes) + start, size)

    for index, (spec, size) in enumerate(zip(specs, sizes, strict=True)):
        yield Stream(spec=spec, chunks=chunks(sum(sizes[:index]), size))


def as_it_is(tensor: StoredTensor) -> Stream:
    """Return a tensor under its own name."""
    return Stream(spec=tensor.spec, chunks=tensor.read())


def are_equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Return True if two tensors have the same dtype, shape and bytes."""
    if (one.spec.dtype, one.spec.shape) != (other.spec.dtype, other.spec.shape):
        return False
    return all(a == b for a, b in zip(one.read(), other.read(), strict=True))


def write(path: Path, streams: Iterable[Stream], *, metadata: Mapping[str, str] | None = None) -> StoredFile:
    """Write a safetensors file of all `streams`."""
    by_name = {stream.spec.name: stream for stream in streams}
    with TensorWriter(path, [stream.spec for stream in by_name.values()], metadata=metadata) as writer:
        for spec in writer.order:
            writer.write(spec.name, by_name[spec.name].chunks)
    return StoredFile(num_bytes=writer.num_bytes, sha256=writer.sha256)
