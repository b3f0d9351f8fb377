"""What a user's own files hold, found out when their scenario is read: samples, images, and rows that splits share.

From the columns' types and lengths alone, so no image is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

from mimo_bench.data.config import Contents, HuggingFaceData, Split
from mimo_bench.data.rows import open_rows

HELD_OUT: tuple[Split, ...] = ("validation", "test")


def read_contents(data: HuggingFaceData, splits: Iterable[Split], *, most_images: int) -> Contents | None:
    """Open the files and count what they hold; None for a name on the hub, as that needs a network.

    Args:
        data: where the files are.
        splits: those that will be read; `train` is one of them.
        most_images: as many fit into a sequence; nothing trains on a sample that has more.

    Raises:
        DataError: as `open_rows` has it.
    """
    if data.place("path") is None:
        return None
    opened = {split: open_rows(data, split) for split in splits}
    train = opened["train"]
    return Contents(
        num_samples={split: len(rows) for split, rows in opened.items()},
        most_images=_most_images(train, data.images, at_most=most_images),
        num_trained_on={split: shared for split in HELD_OUT if (shared := _num_shared(data, split, train))},
    )


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


def _most_images(rows: Any, column: str, *, at_most: int) -> int | None:
    """The most images that a row has, those left out that have more than `at_most`; None where types do not tell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    held = rows.select_columns([column]).with_format("arrow")[:].column(column)
    if any(is_kind(held.type) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        counts = pc.list_value_length(held)
    elif isinstance(held.type, pa.BaseExtensionType):  # of unlike things, which `datasets` keeps as JSON
        return None
    else:
        counts = held.is_valid().cast(pa.int32())
    return pc.max(counts.filter(pc.less_equal(counts, at_most))).as_py() or 0


def _num_shared(data: HuggingFaceData, split: Split, train: Any) -> int:
    """How many rows of a held-out split are trained on, as far as that can be known."""
    trained, held_out = (source_rows(spelled, train) or [] for spelled in (data.train, getattr(data, split)))
    return sum(
        len(range(max(ours.start, theirs.start), min(ours.stop, theirs.stop)))
        for name, ours in trained
        for other, theirs in held_out
        if name == other
    )
