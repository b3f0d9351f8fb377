"""Step series of a record: `layouts/<name>/steps.parquet`, one row per mode, rank and step.

Only this module of the record needs pyarrow. Ranks import `record/files.py` and never this one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mimo_bench.record.files import series_path
from mimo_bench.record.schema.layout import RankRecord
from mimo_bench.util import RecordError, write_atomically


def write_series(directory: Path, name: str, ranks: Sequence[RankRecord]) -> Path:
    """Write the step series of the layout called `name` and return its path."""
    buffer = io.BytesIO()
    pq.write_table(steps_table(ranks), buffer)
    return write_atomically(series_path(directory, name), buffer.getvalue())


def read_series(directory: Path, name: str) -> pa.Table:
    """Return the step series of the layout called `name`, as an Arrow table.

    Raises:
        RecordError: it is missing, or no whole Parquet file.
    """
    path = series_path(directory, name)
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file; restore it or run again") from None
    except (pa.ArrowException, OSError) as error:
        # Arrow raises errors of different kinds for a damaged footer and a damaged page.
        reason = str(error).partition("\n")[0].rstrip(".")
        raise RecordError(f"{path}: no whole Parquet file: {reason}; restore the file or run again") from None


def steps_table(ranks: Sequence[RankRecord]) -> pa.Table:
    """Return tidy rows: mode, rank, step (from 0), loss, step_seconds, tokens, images, grad_norm_<module>.

    `step_seconds` is null outside the timed window; a loss or a norm is null if it was not finite.
    """
    modules = sorted({module for rank in ranks for module in rank.grad_norms})
    schema = pa.schema(
        [
            ("mode", pa.string()),
            ("rank", pa.int32()),
            ("step", pa.int32()),
            ("loss", pa.float64()),
            ("step_seconds", pa.float64()),
            ("tokens", pa.int64()),
            ("images", pa.int64()),
            *((f"grad_norm_{module}", pa.float64()) for module in modules),
        ]
    )
    ordered = sorted(ranks, key=lambda rank: (rank.mode, rank.rank))
    return pa.Table.from_pylist([row for rank in ordered for row in _rows(rank)], schema=schema)


def _rows(rank: RankRecord) -> Iterator[dict[str, Any]]:
    num_steps = max(len(rank.losses), len(rank.tokens), len(rank.step_seconds))
    # The timed window is the end of a launch: warmup steps come first and carry no time.
    num_untimed = num_steps - len(rank.step_seconds)
    for step in range(num_steps):
        yield {
            "mode": rank.mode,
            "rank": rank.rank,
            "step": step,
            "loss": _at(rank.losses, step),
            "step_seconds": _at(rank.step_seconds, step - num_untimed),
            "tokens": _at(rank.tokens, step),
            "images": _at(rank.items.get("vision", ()), step),
            **{f"grad_norm_{module}": _at(norms, step) for module, norms in rank.grad_norms.items()},
        }


def _at[Value](series: Sequence[Value], index: int) -> Value | None:
    return series[index] if 0 <= index < len(series) else None
