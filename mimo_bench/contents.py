"""Which rows of a user's own files a split takes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

from mimo_bench.data_section import HuggingFaceData, Split


def source_rows(spelled: str, rows: Any) -> list[tuple[str, range]] | None:
    """Which rows of the source a split takes, in order: splits by name, and rows of them, from 0.

    Args:
        spelled: the split as `datasets` spells it, such as `train[75%:]`.
        rows: any split of the same source.

    Returns:
        None where that cannot be known, or the source has no such split.
    """
    import datasets

    sizes = {name: split.num_examples for name, split in (rows.info.splits or {}).items()}
    try:
        parts = datasets.ReadInstruction.from_spec(spelled).to_absolute(sizes)
    except (ValueError, AssertionError):
        return None
    return [(part.splitname, range(part.from_, part.to)) for part in parts]


def file_rows(data: HuggingFaceData, split: Split, rows: Any) -> Sequence[range] | None:
    """Which rows of its file a split takes, in order, from 0; None for folders and names on the hub."""
    place = data.place("path")
    if place is None or not place.is_file():
        return None
    parts = source_rows(getattr(data, split), rows)
    return None if parts is None else [taken for _, taken in parts]


def row_at(parts: Sequence[range], row: int) -> int:
    """The row of the file that a split whose `parts` are known has as its own `row`."""
    return next(islice(chain.from_iterable(parts), row, None))
