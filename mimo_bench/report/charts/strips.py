"""Strips as inline SVG: one row of a table each, all of a column on one scale.

A table of strips wraps, prints and reads aloud as a table does; a drawing of rows would not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from mimo_bench.record import Timing
from mimo_bench.report.charts.scales import Linear, Scale

WIDTH = 220
HEIGHT = 22
MOST_DOTS = 20
"""A long run is thinned to these, so that the page stays small."""


def strip_scale(values: Iterable[float]) -> Linear:
    """The scale that all strips of a column share; it begins at zero, so that lengths compare."""
    return Linear.from_zero(values, start=5, stop=WIDTH - 5)


def axis_strip(scale: Scale) -> Markup:
    """The numbers that belong to a column of strips."""
    ticks = (
        Markup('<path class="axis" d="M{0:.1f} 17v5"/><text class="tick x" x="{0:.1f}" y="13">{1}</text>').format(
            place, number
        )
        for place, number in scale.ticks
    )
    return _strip(Markup().join(ticks))


def dot_strip(timing: Timing, *, scale: Scale, name: str) -> Markup:
    """Return every launch's median as a dot, or every step of a single launch, and the estimate as a line."""
    values, what = (
        (timing.launch_medians, "launch") if len(timing.launch_medians) > 1 else (timing.step_seconds, "step")
    )
    median = timing.estimated_step_seconds
    dots = (
        Markup('<circle cx="{:.1f}" cy="11" r="3.2"><title>{}, {} {}: {:.4g} s</title></circle>').format(
            scale(value), name, what, number, value
        )
        for number, value in _spread(values)
    )
    line = Markup('<path class="median" d="M{:.1f} 2v18"><title>{}, median: {:.4g} s</title></path>').format(
        scale(median), name, median
    )
    return _strip(_grid(scale) + Markup().join(dots) + line)


def bar_strip(parts: Sequence[tuple[str, int, float]], *, scale: Scale, name: str, unit: str) -> Markup:
    """Lengths laid end to end, each `(what it is, which colour it has, how long)`."""
    bars: list[Markup] = []
    total = 0.0
    for what, look, length in parts:
        if not length:
            continue
        bars.append(
            Markup('<rect class="part{}" x="{:.1f}" y="5" width="{:.1f}" height="12"><title>{}</title></rect>').format(
                look, scale(total), scale(total + length) - scale(total), f"{name}, {what}: {length:.3g} {unit}"
            )
        )
        total += length
    return _strip(_grid(scale) + Markup().join(bars))


def _spread(values: Sequence[float]) -> list[tuple[int, float]]:
    """At most `MOST_DOTS` of the values with their index, the extremes among them, spread as all of them are."""
    ordered = sorted(enumerate(values), key=lambda point: point[1])
    if len(ordered) <= MOST_DOTS:
        return ordered
    return [ordered[index * (len(ordered) - 1) // (MOST_DOTS - 1)] for index in range(MOST_DOTS)]


def _grid(scale: Scale) -> Markup:
    return Markup('<path class="grid" d="{}"/>').format(" ".join(f"M{place:.1f} 0V22" for place, _ in scale.ticks))


def _strip(inside: Markup) -> Markup:
    return Markup('<svg class="strip" viewBox="0 0 {} {}">{}</svg>').format(WIDTH, HEIGHT, inside)
