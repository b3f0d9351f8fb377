"""What `mimo-bench check` prints of memory: every module on every rank, the rank's peak, and whether a device holds it.

Integers and text only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from mimo_bench.predict import ModulePrediction, RankPrediction

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_PARTS = ("parameters", "gradients", "optimizer", "activations", "workspace")


def describe_memory(predictions: Sequence[RankPrediction], *, device_bytes: int | None) -> Iterator[str]:
    """The memory of a layout as lines of text.

    Args:
        predictions: of all its ranks.
        device_bytes: what each device has; None where that is not known, and then nothing is said about fitting.
    """
    yield from _aligned([["rank", "module", *_PARTS, "peak"], *_rows(predictions)])
    yield f"  {_verdict(predictions, device_bytes)}"


def _rows(predictions: Sequence[RankPrediction]) -> Iterator[list[str]]:
    """One row for each module of each rank; ranks in a row that hold equal amounts share theirs."""
    for _, equal in groupby(predictions, key=_amounts):
        first, *others = equal
        ranks = f"{first.rank}-{others[-1].rank}" if others else str(first.rank)
        for number, (module, parts) in enumerate(first.modules.items()):
            opens = number == 0
            yield [ranks if opens else "", module, *_cells(parts), _shown(first.peak_bytes) if opens else ""]


def _amounts(prediction: RankPrediction) -> tuple[object, ...]:
    return tuple(prediction.modules.items()), prediction.peak_bytes


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
