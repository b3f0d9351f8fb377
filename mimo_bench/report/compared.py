"""Steps that a layout's verdict compared with the baseline: those of parity mode, or those that were timed.

Tables and the console show the differences that decided, next to their bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mimo_bench.record import Parity, Tolerance


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Largest relative differences to the baseline, and the bounds that they were held to."""

    loss_rel: float | None = None
    grad_norm_rel: Mapping[str, float | None]
    bounds: Tolerance | None = None
    is_as_timed: bool = False
    """Whether these are the steps as timed: parity mode did not run, or agreed where the timed steps do not."""

    @property
    def loss_bound(self) -> float | None:
        """Bound of the loss."""
        return self.bounds.loss_rel if self.bounds is not None else None

    @property
    def grad_norm_bound(self) -> float | None:
        """Bound of every module's gradient norm."""
        return self.bounds.grad_norm_rel if self.bounds is not None else None

    @property
    def worst_grad_norm(self) -> tuple[str, float] | None:
        """The module whose gradient norm differs most from the baseline's, and by how much."""
        known = {module: rel for module, rel in self.grad_norm_rel.items() if rel is not None}
        return max(known.items(), key=lambda item: item[1]) if known else None

    @property
    def worst_grad_norm_rel(self) -> float | None:
        """By how much that module's differs."""
        return self.worst_grad_norm[1] if self.worst_grad_norm is not None else None


def compared(parity: Parity | None) -> Compared:
    """The differences that a verdict rests on; all unknown where there is none."""
    if parity is None:
        return Compared(grad_norm_rel={})
    # A verdict of parity mode has bounds, unless it failed before anything was compared, and is not timed then.
    is_as_timed = parity.as_timed is not None and (parity.tolerance is None or parity.failed_check == "as_timed")
    return as_timed(parity) if is_as_timed else in_parity_mode(parity)


def in_parity_mode(parity: Parity) -> Compared:
    """Return the comparison of the steps of parity mode."""
    return Compared(loss_rel=parity.loss_rel_max, grad_norm_rel=parity.grad_norm_rel, bounds=parity.tolerance)


def as_timed(parity: Parity) -> Compared:
    """Return the comparison of the steps as timed; all unknown if nothing was timed."""
    if (timed := parity.as_timed) is None:
        return Compared(grad_norm_rel={}, is_as_timed=True)
    return Compared(loss_rel=timed.loss_rel_max, grad_norm_rel=timed.grad_norm_rel, bounds=timed.band, is_as_timed=True)
