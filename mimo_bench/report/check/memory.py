"""Memory as `mimo-bench check` prints it: every module on every rank, the ranks' peaks, and which layouts fit a device.

Integers and text only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from mimo_bench.models import unknown_modules
from mimo_bench.predict import MemoryPredictor, ModulePrediction, RankPrediction
from mimo_bench.scenario import Scenario

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_PARTS = ("parameters", "gradients", "optimizer", "activations", "workspace")


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Memory of a layout's fullest rank."""

    layout: str
    peak_bytes: int | None
    """Peak of the allocator; None if routing decides it."""
    device_bytes: int
    """Memory that the device must have; at least that, if the peak is not known."""


def layout_needs(scenario: Scenario) -> list[Need]:
    """Return the need of every layout; none if parameters of a module are not known."""
    if unknown_modules(scenario.shape):
        return []
    predictor, needs = MemoryPredictor(scenario), []
    for table in scenario.layout:
        layout = table.grids()
        needs.append(need_of(table.name, predictor.predict(table, layout, scenario.plan_of(table, layout))))
    return needs


def need_of(layout: str, ranks: Sequence[RankPrediction]) -> Need:
    """Return the need of a layout by the predictions of all its ranks."""
    peaks = [rank.peak_bytes for rank in ranks if rank.peak_bytes is not None]
    return Need(
        layout=layout,
        peak_bytes=max(peaks) if len(peaks) == len(ranks) else None,
        device_bytes=max(rank.device_bytes for rank in ranks),
    )


def needs_table(needs: Sequence[Need], *, device_bytes: int | None) -> Iterator[str]:
    """Return a row for each layout: peak, memory that a device must have, and whether `device_bytes` suffices."""

    def fits(need: Need) -> str:
        if device_bytes is None or (need.peak_bytes is None and need.device_bytes <= device_bytes):
            return "-"
        return "yes" if need.device_bytes <= device_bytes else "NO"

    title = "fits" if device_bytes is None else f"fits {size(device_bytes)}"
    rows = ([need.layout, _shown(need.peak_bytes), size(need.device_bytes), fits(need)] for need in needs)
    return _aligned([["layout", "peak", "needs a device with", title], *rows])


def describe_memory(predictions: Sequence[RankPrediction], *, device_bytes: int | None) -> Iterator[str]:
    """The memory of a layout as lines of text.

    Args:
        predictions: of all its ranks.
        device_bytes: what each device has; None where that is not known, and then nothing is said about fitting.
    """
    yield from _aligned([["rank", "module", *_PARTS, "peak"], *_rows(predictions)])
    yield f"  {_verdict(predictions, device_bytes)}"


def _rows(predictions: Sequence[RankPrediction]) -> Iterator[list[str]]:
    """Yield one row for each module of each rank; ranks whose rows print alike share theirs."""
    alike: dict[tuple[tuple[tuple[str, ...], ...], str], list[int]] = {}
    for prediction in predictions:
        cells = tuple((module, *_cells(parts)) for module, parts in prediction.modules.items())
        alike.setdefault((cells, _shown(prediction.peak_bytes)), []).append(prediction.rank)
    for (cells, peak), ranks in alike.items():
        for number, row in enumerate(cells):
            opens = number == 0
            yield [_spans(ranks) if opens else "", *row, peak if opens else ""]


def _spans(ranks: Sequence[int]) -> str:
    """Return ascending ranks as spans: `0-3,6`."""
    runs = [[rank for _, rank in run] for _, run in groupby(enumerate(ranks), key=lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


@lru_cache(maxsize=1 << 16)
def _cells(parts: ModulePrediction) -> tuple[str, ...]:
    return tuple(_shown(getattr(parts, f"{name}_bytes")) for name in _PARTS)


def _shown(num_bytes: int | None) -> str:
    return "-" if num_bytes is None else size(num_bytes)


def _verdict(predictions: Sequence[RankPrediction], device_bytes: int | None) -> str:
    worst = max(predictions, key=lambda prediction: prediction.device_bytes)
    needs = f"rank {worst.rank} needs most: a device with {size(worst.device_bytes)}, context and fragments included"
    is_known = all(prediction.peak_bytes is not None for prediction in predictions)
    if not is_known:
        needs = (
            f"rank {worst.rank} needs a device with {size(worst.device_bytes)} in any case, context and fragments "
            "included; routing decides what experts keep for the backward pass beyond that"
        )
    if device_bytes is None:
        return needs
    if worst.device_bytes > device_bytes:
        return f"{needs}; does NOT fit {size(device_bytes)}"
    return f"{needs}; fits {size(device_bytes)}" if is_known else needs


def size(num_bytes: int) -> str:
    """Bytes in powers of 1024, to three digits."""
    value, unit = float(num_bytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    rank, module, *amounts = (max(map(len, column)) for column in zip(*rows, strict=True))
    line = "".join([f"  {{:>{rank}}}  {{:<{module}}}", *(f"  {{:>{width}}}" for width in amounts)])
    return (line.format(*row).rstrip() for row in rows)
