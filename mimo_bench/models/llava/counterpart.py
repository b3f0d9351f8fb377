"""Models that `transformers` has, to compare the baseline with. No torch."""

from __future__ import annotations

from mimo_bench.layout import LANGUAGE
from mimo_bench.models.shape import ModelShape


def missing_counterpart(shape: ModelShape) -> str | None:
    """Return why `transformers` has no model to compare this one with; None if it has one, a LLaVA."""
    if shape.builder is not None:
        return f"the model is what {shape.builder!r} of another package builds"
    if shape.vision is None:
        return "the referee of transformers is a LLaVA, and this model has no vision encoder"
    if others := sorted(set(shape.modules) - {"vision", LANGUAGE}):
        return f"transformers has no model of vision and language that also reads {' and '.join(others)}"
    return None
