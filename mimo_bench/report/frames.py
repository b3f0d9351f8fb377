"""A run as tidy tables: `mimo_bench.load_run(path)` for notebooks and scripts.

One row an observation, one column a variable; names are the record's own and carry their units.
Unknown is missing (NaN or None), never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mimo_bench.record import (
    Difference,
    LayoutRecord,
    LinkSpeed,
    Parity,
    RankRecord,
    RunRecord,
    read_rank,
    read_run,
    read_series,
    series_path,
)
from mimo_bench.report.links import share_of_links

COLUMNS: dict[str, dict[str, str]] = {
    "layouts": {
        "layout": "name in the scenario",
        "is_baseline": "whether the others are compared with it",
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
        "images_per_second": "of the whole job",
        "model_tflops_per_gpu": "model FLOPs over time and allocated ranks",
        "mfu": "share of the devices' dense peak, 0..1",
        "peak_allocated_bytes": "of its fullest rank",
        "peak_reserved_bytes": "of its fullest rank",
        "joules_per_step": "of all its devices; missing for a window under 10 s",
        "average_watts": "of all its devices together, over the timed window",
        "loader_stall_share": "of the time fed by the loader, in which the slowest rank waited for it, 0..1",
        "loader_samples_per_second_per_worker": "that one worker thread makes while the model trains",
        "worst_gradient_rel": "largest relative difference of a parameter's first gradient to the baseline's",
        "worst_weight_rel": "largest difference of an update over two steps, relative to the baseline's update",
        "worst_moment_rel": "largest relative difference of one of Adam's moments after two steps",
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
        "ep": "expert-parallel degree; 1 where no experts are split",
        "first_rank": "first global rank of its span",
        "num_ranks": "length of its span",
        "grad_norm_rel": "largest relative difference of its gradient norm to the baseline's",
        "imbalance": "items of an encoder's busiest replica over the mean of all; 1 where all have as many",
        "compute_seconds": "per step, on the rank that computes longest; comm mode",
        "idle_share": "of the step, 0..1, mean over its ranks; comm mode",
        "forward_seconds": "per step, on its slowest rank",
        "backward_seconds": "per step, on its slowest rank",
        "optimizer_seconds": "per step, on its slowest rank",
        "model_flops_per_step": "what its arithmetic needs",
        "peak_allocated_bytes": "of the fullest rank that hosts it",
        "peak_reserved_bytes": "of the fullest rank that hosts it",
        "parameters_bytes": "on the fullest rank, like the four that follow",
        "gradients_bytes": "buffers in which gradients are summed",
        "optimizer_bytes": "moments and fp32 copies",
        "activations_bytes": "left by forward for backward, at most",
        "workspace_bytes": "temporaries of its busiest moment",
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
    "optimizer": {
        "layout": "name in the scenario",
        "of": "first_moments, second_moments or updates",
        "module": "vision, language, ...",
        "parameter": "canonical name",
        "norm": "Frobenius norm of it after two steps",
        "baseline_norm": "the baseline's",
        "error_norm": "of the difference",
        "scale": "multiple of the baseline's that comes closest",
        "unscaled_error_norm": "of the difference to that multiple",
    },
    "communication": {
        "layout": "name in the scenario",
        "role": "group, such as language.tp or bridge.vision->language",
        "collective": "what the group did",
        "group_size": "ranks of the group",
        "spans_hosts": "whether data goes between hosts",
        "calls_per_step": "over all ranks",
        "bytes_per_step": "over all ranks",
        "seconds_per_step": "on the rank that spends most in it",
        "transfer_seconds": "the part in which data moved",
        "wait_seconds": "the part spent waiting for a late peer",
        "exposed_seconds": "the part not hidden behind compute",
        "bus_bytes_per_second": "of the transfers",
        "link_share": "of what the machine's links carry by themselves at that message size, 0..1",
    },
    "ranks": {
        "layout": "name in the scenario",
        "rank": "global rank",
        "modules": "hosted there, separated by commas",
        "step_seconds": "mean over the steps of comm mode, like the four that follow",
        "compute_seconds": "with anything computed",
        "exposed_communication_seconds": "of transfers with nothing computed",
        "idle_seconds": "with neither",
        "wait_seconds": "of the idle time, waiting inside a call",
        "device_uuid": "of its GPU",
        "peak_allocated_bytes": "over the timed window",
        "peak_reserved_bytes": "over the timed window",
        "predicted_peak_bytes": "what mimo-bench check expects of peak_allocated_bytes",
        "parameters_bytes": "of the peak, like the four that follow; they add up to it within 2 %",
        "gradients_bytes": "buffers in which gradients are summed",
        "optimizer_bytes": "moments and fp32 copies",
        "activations_bytes": "left by forward for backward",
        "workspace_bytes": "everything else",
        "device_used_bytes": "of the whole device at the end, by NVML",
        "joules": "of its device over the timed window; missing for a window under 10 s",
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
"""Every table and every column of it, with what it holds. The tests compare the tables with this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run's record, and the same as tables; `mimo_bench.report.frames.COLUMNS` says what each column holds."""

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
    """One row a parameter of a layout that was compared with the baseline; empty where ranks' records are gone."""
    optimizer: pd.DataFrame
    """One row a parameter and moment or update of such a layout; empty where ranks' records are gone."""
    communication: pd.DataFrame
    """One row a group role and collective; empty without comm mode."""
    ranks: pd.DataFrame
    """One row a rank that was timed; memory is missing on CPU ranks, the account without comm mode."""
    launches: pd.DataFrame
    """One row a launch."""


def load_run(path: str | Path) -> Run:
    """The run that `mimo-bench run` left in the directory at `path`.

    Raises:
        RecordError: there is no record, or it or a file next to it cannot be read.
    """
    directory = Path(path)
    record = read_run(directory)
    by_layout = {
        "modules": _modules,
        "grad_norms": _grad_norms,
        "ranks": _ranks,
        "launches": _launches,
    }
    tables: dict[str, Iterable[Mapping[str, Any]]] = {
        "layouts": _layouts(record),
        "steps": _of_layouts(record, lambda layout: _steps(directory, layout)),
        "gradients": _of_layouts(record, lambda layout: _gradients(directory, layout)),
        "communication": _of_layouts(record, lambda layout: _communication(layout, record.links)),
        "optimizer": _of_layouts(record, lambda layout: _optimizer(directory, layout)),
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
        peaks, parity, loading = layout.memory.ranks if layout.memory else (), layout.parity, layout.loading
        yield {
            **(layout.timing.model_dump() if layout.timing else {}),
            **(layout.energy.model_dump() if layout.energy else {}),
            **{f"{worst}_rel": _rel(parity, worst) for worst in ("worst_gradient", "worst_weight", "worst_moment")},
            "loader_stall_share": loading.stall_share if loading else None,
            "loader_samples_per_second_per_worker": loading.samples_per_second_per_worker if loading else None,
            "layout": layout.name,
            "is_baseline": layout.name == record.baseline,
            "placement": layout.placement,
            "world_size": layout.world_size,
            "status": layout.status,
            "reason": layout.reason,
            "place": places.get(layout.name),
            "loss_rel_max": parity.loss_rel_max if parity else None,
            "peak_allocated_bytes": max((rank.peak_allocated_bytes for rank in peaks), default=None),
            "peak_reserved_bytes": max((rank.peak_reserved_bytes for rank in peaks), default=None),
            "evaluation_loss": layout.evaluation.loss if layout.evaluation else None,
            "answer_accuracy": layout.evaluation.answer_accuracy if layout.evaluation else None,
        }


def _rel(parity: Parity | None, worst: str) -> float | None:
    difference: Difference | None = getattr(parity, worst, None)
    return difference.rel if difference else None


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
            "imbalance": layout.imbalance.get(module),
            "grad_norm_rel": layout.parity.grad_norm_rel.get(module) if layout.parity else None,
        }


def _steps(directory: Path, layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    if series_path(directory, layout.name).is_file():
        rows: list[dict[str, Any]] = read_series(directory, layout.name).to_pylist()
        yield from rows


def _grad_norms(layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    for module, norms in layout.grad_norms.items():
        yield from ({"module": module, "step": step, "grad_norm": norm} for step, norm in enumerate(norms))


def _gradients(directory: Path, layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    rank = _parity_rank(directory, layout)
    yield from (difference.model_dump() for difference in (rank.gradients if rank else None) or ())


def _optimizer(directory: Path, layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    rank = _parity_rank(directory, layout)
    if rank is None or rank.optimizer is None:
        return
    for of in ("first_moments", "second_moments", "updates"):
        yield from ({"of": of, **difference.model_dump()} for difference in getattr(rank.optimizer, of))


def _parity_rank(directory: Path, layout: LayoutRecord) -> RankRecord | None:
    # Every rank holds the whole tables, and they were found equal when they were merged.
    path = directory / "layouts" / layout.name / "parity" / "rank0.json"
    return read_rank(path) if path.is_file() else None


def _communication(layout: LayoutRecord, links: Sequence[LinkSpeed]) -> Iterator[dict[str, Any]]:
    rows = layout.communication
    yield from ({**row.model_dump(), "link_share": share_of_links(row, rows, links)} for row in rows)


def _ranks(layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    memories = {rank.rank: rank for rank in layout.memory.ranks} if layout.memory else {}
    accounts = {rank.rank: rank for rank in layout.account.ranks} if layout.account else {}
    joules = {device.device_uuid: device.joules for device in layout.energy.devices} if layout.energy else {}
    for rank in sorted(memories.keys() | accounts.keys()):
        memory, account = memories.get(rank), accounts.get(rank)
        hosts = memory or account
        assert hosts is not None
        yield {
            **(account.model_dump() if account else {}),
            **(memory.model_dump() if memory else {}),
            **(memory.parts.model_dump() if memory and memory.parts else {}),
            "joules": joules.get(memory.device_uuid) if memory else None,
            "modules": ",".join(hosts.modules),
        }


def _launches(layout: LayoutRecord) -> Iterator[dict[str, Any]]:
    yield from ({"launch": index, **launch.model_dump()} for index, launch in enumerate(layout.launches))
