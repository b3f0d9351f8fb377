"""What `mimo-bench check` prints of memory: every module on every rank, the rank's peak, and whether a device holds it.

[scenario -> layout -> prediction] -> trainer -> ...: integers and text only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mimo_bench.prediction import RankPrediction, predict_memory, unknown_encoders
from mimo_bench.prediction.memory import ModulePrediction
from mimo_bench.scenario import Scenario

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_PARTS = ("parameters", "gradients", "optimizer", "activations", "workspace")


def describe_memory(scenario: Scenario, name: str, *, device_bytes: int | None) -> Iterator[str]:
    """The memory of the layout called `name` as lines of text.

    Args:
        scenario: holds the layout.
        name: of the layout.
        device_bytes: what each device has; None where that is not known, and then nothing is said about fitting.
    """
    if unknown := unknown_encoders(scenario.shape):
        yield f"  memory is not predicted, as the parameters of {' and '.join(unknown)} are another package's"
        return
    yield from _aligned([["rank", "module", *_PARTS, "peak"], *_rows(predict_memory(scenario, name))])
    yield f"  {_verdict(predict_memory(scenario, name), device_bytes)}"


def _rows(predictions: Sequence[RankPrediction]) -> Iterator[list[str]]:
    """One row for each module of each rank; ranks in a row that hold equal amounts share theirs."""
    first = 0
    for index, prediction in enumerate(predictions):
        following = predictions[index + 1] if index + 1 < len(predictions) else None
        if following is not None and _amounts(following) == _amounts(prediction):
            continue
        ranks = str(prediction.rank) if first == index else f"{predictions[first].rank}-{prediction.rank}"
        for number, (module, parts) in enumerate(prediction.modules.items()):
            begins = number == 0
            peak = _shown(prediction.peak_bytes) if begins else ""
            yield [ranks if begins else "", module, *_cells(parts), peak]
        first = index + 1


def _amounts(prediction: RankPrediction) -> tuple[object, ...]:
    return tuple(prediction.modules.items()), prediction.peak_bytes


def _cells(parts: ModulePrediction) -> list[str]:
    return [_shown(getattr(parts, f"{name}_bytes")) for name in _PARTS]


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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for rank, module, *amounts in rows:
        numbers = (cell.rjust(width) for cell, width in zip(amounts, widths[2:], strict=True))
        yield f"  {rank.rjust(widths[0])}  {module.ljust(widths[1])}  {'  '.join(numbers)}".rstrip()
