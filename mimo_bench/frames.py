"""A run as tidy tables: `mimo_bench.load_run(path)` for notebooks and scripts.

record -> [frames]: one row an observation, one column a variable; names are the record's own and carry their units.
Unknown is missing (NaN or None), never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from mimo_bench.record.files import read_rank, read_run, series_path
from mimo_bench.record.schema import LayoutRecord, RankRecord, RunRecord

COLUMNS: dict[str, dict[str, str]] = {
    "layouts": {
        "layout": "name in the scenario",
        "is_baseline": "whether the others are held against it",
        "placement": "colocated or disjoint",
        "world_size": "ranks it is allocated",
        "status": "how it ended",
        "reason": "why",
        "place": "in the ranking, from 1; missing where it is not ranked",
        "loss_rel_max": "largest relative loss difference to the baseline",
        "step_seconds_median": "over the timed window, on the slowest rank of each step",
        "step_seconds_iqr": "interquartile range of the same",
        "tokens_per_second": "of the whole job, padding left out",
        "tokens_per_second_per_gpu": "the same for each allocated rank",
        "samples_per_second": "of the whole job",
        "model_tflops_per_gpu": "model FLOPs over time and allocated ranks",
        "mfu": "share of the devices' dense peak, 0..1",
        "peak_allocated_bytes": "of its fullest rank",
        "peak_reserved_bytes": "of its fullest rank",
        "evaluation_loss": "on held-out samples",
        "answer_accuracy": "share of held-out answer tokens that are right, 0..1",
    },
    "modules": {
        "layout": "name in the scenario",
        "module": "vision, language, ...",
        "tp": "tensor-parallel degree",
        "cp": "context-parallel degree",
        "pp": "pipeline-parallel degree",
        "dp": "data-parallel degree",
        "first_rank": "first global rank of its span",
        "num_ranks": "length of its span",
        "grad_norm_rel": "largest relative difference of its gradient norm to the baseline's",
        "compute_seconds": "per step",
        "idle_share": "of the step, 0..1",
        "peak_allocated_bytes": "of the fullest rank that hosts it",
        "peak_reserved_bytes": "of the fullest rank that hosts it",
    },
    "steps": {
        "layout": "name in the scenario",
        "mode": "parity, timing or comm",
        "rank": "global rank",
        "step": "from 0 within the mode",
        "loss": "mean over the answer tokens of the global batch",
        "step_seconds": "missing outside the timed window",
        "tokens": "language positions of the global batch that are not padding",
    },
    "grad_norms": {
        "layout": "name in the scenario",
        "module": "vision, language, ...",
        "step": "parity step, from 0",
        "grad_norm": "before clipping",
    },
    "gradients": {
        "layout": "name in the scenario",
        "module": "vision, language, ...",
        "parameter": "canonical name",
        "norm": "Frobenius norm of its first gradient",
        "baseline_norm": "the baseline's",
        "error_norm": "of the difference",
        "scale": "multiple of the baseline's gradient that comes closest",
        "unscaled_error_norm": "of the difference to that multiple",
    },
    "communication": {
        "layout": "name in the scenario",
        "role": "group, such as language.tp or bridge.vision->language",
        "collective": "what the group did",
        "calls_per_step": "over all ranks",
        "bytes_per_step": "over all ranks",
        "seconds_per_step": "on the rank that spends most in it",
        "transfer_seconds": "the part in which data moved",
        "wait_seconds": "the part spent waiting for a late peer",
        "exposed_seconds": "the part not hidden behind compute",
        "bus_bytes_per_second": "of the transfers",
    },
    "ranks": {
        "layout": "name in the scenario",
        "rank": "global rank",
        "modules": "hosted there, separated by commas",
        "device_uuid": "of its GPU",
        "peak_allocated_bytes": "over the timed window",
        "peak_reserved_bytes": "over the timed window",
        "device_used_bytes": "of the whole device at the end, by NVML",
    },
    "launches": {
        "layout": "name in the scenario",
        "mode": "parity, timing or comm",
        "launch": "from 0 within the layout",
        "start_seconds": "until every rank runs its first line",
        "setup_seconds": "from there to the first step",
        "gap_seconds": "since the previous launch's last step",
        "first_step_seconds": "of the first step, with what is compiled in it",
    },
}
"""Every table and every column of it, with what it holds. The tests hold the tables against this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run's record, and the same as tables; `mimo_bench.frames.COLUMNS` says what each column holds."""

    record: RunRecord
    layouts: pd.DataFrame
    """One row a layout."""
    modules: pd.DataFrame
    """One row a module of a layout."""
    steps: pd.DataFrame
    """One row a step, rank and mode."""
    grad_norms: pd.DataFrame
    """One row a module and parity step."""
    gradients: pd.DataFrame
    """One row a parameter of a layout that was held against the baseline; empty where ranks' records are gone."""
    communication: pd.DataFrame
    """One row a group role and collective; empty without comm mode."""
    ranks: pd.DataFrame
    """One row a rank whose memory is known; empty on CPU ranks."""
    launches: pd.DataFrame
    """One row a launch."""


def load_run(path: str | Path) -> Run:
    """The run that `mimo-bench run` left in the directory at `path`.

    Raises:
        RecordError: there is no record, or it cannot be read.
    """
    directory = Path(path)
    record = read_run(directory)
    by_layout = {
        "modules": _modules,
        "grad_norms": _grad_norms,
        "communication": _communication,
        "ranks": _ranks,
        "launches": _launches,
    }
    tables: dict[str, Iterable[Mapping[str, Any]]] = {
        "layouts": _layouts(record),
        "steps": _of_layouts(record, lambda layout: _steps(directory, layout)),
        "gradients": _of_layouts(record, lambda layout: _gradients(directory, layout)),
        **{name: _of_layouts(record, rows) for name, rows in by_layout.items()},
    }
    return Run(record=record, **{name: frame(name, rows) for name, rows in tables.items()})


def frame(name: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The table called `name` with exactly its documented columns, whatever else the rows hold."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS[name]))


def _of_layouts(record: RunRecord, rows: Any) -> Iterator[dict[str, Any]]:
    for layout in record.layouts:
        yield from ({"layout": layout.name, **row} for row in rows(layout))


def _layouts(record: RunRecord) -> Iterator[dict[str, Any]]:
    places = {ranked.name: place for place, ranked in enumerate(record.ranking, start=1)}
    for layout in record.layouts:
        peaks = layout.memory.ranks if layout.memory else ()
        yield {
            **(layout.timing.model_dump() if layout.timing else {}),
            "layout": layout.name,
            "is_baseline": layout.name == record.baseline,
            "placement": layout.placement,
            "world_size": layout.world_size,
            "status": layout.status,
            "reason": layout.reason,
            "place": places.get(layout.name),
            "loss_rel_max": layout.parity.loss_rel_max if layout.parity else None,
            "peak_allocated_bytes": max((rank.peak_allocated_bytes for rank in peaks), default=None),
            "peak_reserved_bytes": max((rank.peak_reserved_bytes for rank in peaks), default=None),
            "evaluation_loss": layout.evaluation.loss if layout.evaluation else None,
            "answer_accuracy": layout.evaluation.answer_accuracy if layout.evaluation else None,
        }


def _modules(layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    for module, grid in layout.modules.items():
        timing = layout.timing.modules.get(module) if layout.timing else None
        memory = layout.memory.modules.get(module) if layout.memory else None
        yield {
            **grid.model_dump(),
            **(timing.model_dump() if timing else {}),
            **(memory.model_dump() if memory else {}),
            "module": module,
            "first_rank": min(grid.ranks),
            "num_ranks": len(grid.ranks),
            "grad_norm_rel": layout.parity.grad_norm_rel.get(module) if layout.parity else None,
        }


def _steps(directory: Path, layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    path = series_path(directory, layout.name)
    if path.is_file():
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        yield from rows


def _grad_norms(layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    for module, norms in layout.grad_norms.items():
        yield from ({"module": module, "step": step, "grad_norm": norm} for step, norm in enumerate(norms))


def _gradients(directory: Path, layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    # Every rank holds the whole table, and they were found equal when they were merged.
    path = directory / "layouts" / layout.name / "parity" / "rank0.json"
    rank: RankRecord | None = read_rank(path) if path.is_file() else None
    yield from (difference.model_dump() for difference in (rank.gradients if rank else None) or ())


def _communication(layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    yield from (part.model_dump() for part in layout.communication)


def _ranks(layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    for rank in layout.memory.ranks if layout.memory else ():
        yield rank.model_dump() | {"modules": ",".join(rank.modules)}


def _launches(layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    yield from ({"launch": index, **launch.model_dump()} for index, launch in enumerate(layout.launches))
