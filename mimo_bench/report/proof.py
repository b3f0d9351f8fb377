"""Evidence of the verdicts, as rows of tables of the Markdown summary: every difference with its bound."""

from __future__ import annotations

from collections.abc import Iterator

from mimo_bench.record import Difference, Parity, RunRecord
from mimo_bench.report import words
from mimo_bench.report.compared import as_timed, in_parity_mode

DIFFERENCES = (
    "layout",
    "loss",
    "gradient norm",
    "worst gradient",
    "worst moment",
    "worst update",
    "as timed: loss",
    "as timed: gradient norm",
    "memory to compare",
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
    """Yield a row for every layout compared with the baseline: differences, bounds, memory of the comparison."""
    for layout in record.layouts:
        if layout.parity is not None and layout.name != record.baseline:
            shown = in_parity_mode(layout.parity), as_timed(layout.parity)
            if any(found.bounds is not None for found in shown):
                comparing = layout.comparing.extra_bytes if layout.comparing is not None else None
                yield *_row(layout.name, layout.parity), words.size(comparing)


def noise(record: RunRecord) -> Iterator[tuple[str, ...]]:
    """Yield a row for every variant of the baseline, whose spread sets the bounds, in parity mode and as timed."""
    for layout in record.layouts:
        if layout.parity is None:
            continue
        as_timed = layout.parity.as_timed.noise if layout.parity.as_timed is not None else ()
        for mode, some in (("parity", layout.parity.noise), ("as timed", as_timed)):
            for one in some:
                loss = words.relative(one.loss_rel_max) + words.drift(one.loss_rel_mean)
                others = (one.grad_norm_rel_max, one.gradient_rel_max, one.moment_rel_max, one.update_rel_max)
                yield f"{one.variant}, {mode}", loss, *map(words.relative, others), one.differs or "nothing"


def _row(name: str, parity: Parity) -> tuple[str, ...]:
    found, timed, bounds = in_parity_mode(parity), as_timed(parity), parity.tolerance
    return (
        name,
        _of(found.loss_rel, found.loss_bound) + words.drift(parity.loss_rel_mean),
        _of(found.worst_grad_norm_rel, found.grad_norm_bound),
        _of(_rel(parity.worst_gradient), bounds.gradient_rel if bounds is not None else None),
        _of(_rel(parity.worst_moment), bounds.moment_rel if bounds is not None else None),
        _of(_rel(parity.worst_weight), bounds.update_rel if bounds is not None else None),
        _of(timed.loss_rel, timed.loss_bound)
        + words.drift(parity.as_timed.loss_rel_mean if parity.as_timed is not None else None),
        _of(timed.worst_grad_norm_rel, timed.grad_norm_bound),
    )


def _of(difference: float | None, bound: float | None) -> str:
    return words.DASH if difference is None else f"{words.relative(difference)} of {words.relative(bound)}"


def _rel(worst: Difference | None) -> float | None:
    return worst.rel if worst is not None else None
