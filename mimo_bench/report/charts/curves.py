"""Distance of each layout's curves from the baseline's, step by step.

Worked out for the eye from losses and norms in the record, by the measure that `parity` judged by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mimo_bench.record import RunRecord
from mimo_bench.util import relative

Series = Sequence[float | None]


def loss_differences(record: RunRecord) -> dict[str, Series]:
    """Relative loss difference to the baseline of every other layout, by name; empty without a baseline."""
    layouts = {layout.name: layout for layout in record.layouts}
    if (baseline := layouts.pop(record.baseline, None)) is None:
        return {}
    return {name: _differences(layout.losses, baseline.losses) for name, layout in layouts.items() if layout.losses}


def grad_norm_differences(record: RunRecord) -> dict[str, Series]:
    """Relative gradient-norm difference to the baseline, of the worst module at each step, by layout."""
    layouts = {layout.name: layout for layout in record.layouts}
    if (baseline := layouts.pop(record.baseline, None)) is None:
        return {}
    return {
        name: _worst_module(layout.grad_norms, baseline.grad_norms)
        for name, layout in layouts.items()
        if layout.grad_norms
    }


def _differences(values: Series, reference: Series) -> list[float | None]:
    return [relative(value, base) for value, base in zip(values, reference, strict=False)]


def _worst_module(norms: Mapping[str, Series], reference: Mapping[str, Series]) -> list[float | None]:
    by_module = [_differences(norms[module], reference[module]) for module in norms if module in reference]
    steps = zip(*by_module, strict=False)
    return [max((value for value in step if value is not None), default=None) for step in steps]
