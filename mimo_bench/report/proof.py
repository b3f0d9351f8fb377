"""What a verdict rests on, as rows of a table: every difference beside the bound that it was held against.

record -> [report]: the Markdown summary prints them.
"""

from __future__ import annotations

from collections.abc import Iterator

from mimo_bench.record.schema import Difference, LayoutRecord, RunRecord
from mimo_bench.report import words

DIFFERENCES = (
    "layout",
    "loss",
    "gradient norm",
    "worst gradient",
    "worst moment",
    "worst update",
    "as timed: loss",
    "as timed: gradient norm",
)
NOISE = (
    "the baseline once more",
    "loss",
    "gradient norm",
    "worst gradient",
    "worst moment",
    "worst update",
    "differs in",
)


def differences(record: RunRecord) -> Iterator[tuple[str, ...]]:
    """A row for every layout that was held against the baseline: each difference of its bound."""
    for layout in record.layouts:
        if layout.parity is not None and layout.parity.tolerance is not None and layout.name != record.baseline:
            yield _row(layout)


def noise(record: RunRecord) -> Iterator[tuple[str, ...]]:
    """A row for every variant of the baseline whose spread the bounds come from, in parity mode and as timed."""
    for layout in record.layouts:
        if layout.parity is None:
            continue
        as_timed = layout.parity.as_timed.noise if layout.parity.as_timed is not None else ()
        for mode, some in (("parity", layout.parity.noise), ("as timed", as_timed)):
            for one in some:
                loss = words.relative(one.loss_rel_max) + words.drift(one.loss_rel_mean)
                others = (one.grad_norm_rel_max, one.gradient_rel_max, one.moment_rel_max, one.update_rel_max)
                yield f"{one.variant}, {mode}", loss, *map(words.relative, others), one.differs or "nothing"


def _row(layout: LayoutRecord) -> tuple[str, ...]:
    parity = layout.parity
    assert parity is not None
    assert parity.tolerance is not None
    bounds, timed = parity.tolerance, parity.as_timed
    band = timed.band if timed is not None else None
    return (
        layout.name,
        _of(parity.loss_rel_max, bounds.loss_rel) + words.drift(parity.loss_rel_mean),
        _of(_largest(parity.grad_norm_rel), bounds.grad_norm_rel),
        _of(_rel(parity.worst_gradient), bounds.gradient_rel),
        _of(_rel(parity.worst_moment), bounds.moment_rel),
        _of(_rel(parity.worst_weight), bounds.update_rel),
        _of(timed.loss_rel_max if timed is not None else None, band.loss_rel if band is not None else None)
        + words.drift(timed.loss_rel_mean if timed is not None else None),
        _of(
            _largest(timed.grad_norm_rel) if timed is not None else None,
            band.grad_norm_rel if band is not None else None,
        ),
    )


def _of(difference: float | None, bound: float | None) -> str:
    return words.DASH if difference is None else f"{words.relative(difference)} of {words.relative(bound)}"


def _rel(worst: Difference | None) -> float | None:
    return worst.rel if worst is not None else None


def _largest(by_module: dict[str, float | None]) -> float | None:
    return max((rel for rel in by_module.values() if rel is not None), default=None)
