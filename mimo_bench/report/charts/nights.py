"""One layout over the nights as inline SVG: a dot a night, levels between change points, outliers as triangles.

markupsafe escapes every text; every colour is a class of the report's style sheet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median

from markupsafe import Markup

from mimo_bench.report.charts.scales import Linear
from mimo_bench.report.history.changepoints import change_points

WIDTH, HEIGHT = 560, 150
LEFT, RIGHT, TOP, BOTTOM = 60, 552, 10, 124

STOOD_OUT = "M0-5L5 4H-5z"
"""Path of a triangle: an outlier is visible without colour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """One night on a chart."""

    at: datetime
    value: float
    stands_out: bool
    label: str
    """Text of the tooltip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """A change of level."""

    at: datetime
    """The first night of the new level."""
    ratio: float
    """New level over old."""


def shifts(dots: Sequence[Dot]) -> list[Shift]:
    """Return the changes of level, oldest first."""
    values = [dot.value for dot in dots]
    cuts = change_points(values)
    edges = [0, *cuts, len(values)]
    levels = [median(values[start:stop]) for start, stop in pairwise(edges)] if values else []
    return [
        Shift(at=dots[cut].at, ratio=after / before)
        for cut, (before, after) in zip(cuts, pairwise(levels), strict=True)
    ]


def nights_chart(dots: Sequence[Dot], *, changed: Sequence[tuple[int, str]], label: str) -> Markup:
    """Draw the nights of one layout.

    Args:
        dots: oldest first; drawn at equal distances.
        changed: index of each night from which the software was different, with the change in words.
        label: description of the chart for screen readers.
    """
    values = [dot.value for dot in dots]
    # Every night has a slot: a single one is in the middle, and no level leaves the chart.
    x = Linear(low=-0.5, high=len(dots) - 0.5, start=LEFT, stop=RIGHT)
    y = Linear.over(values, start=BOTTOM, stop=TOP)
    parts = [
        Markup('<svg class="chart nights" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            WIDTH, HEIGHT, label
        ),
        *_axes(dots, x, y),
        *(_change(x(index - 0.5), change) for index, change in changed),
        *_levels(values, x, y),
        *(_dot(dot, x(index), y(dot.value)) for index, dot in enumerate(dots)),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def _axes(dots: Sequence[Dot], x: Linear, y: Linear) -> Iterator[Markup]:
    for place, number in y.ticks:
        yield Markup(
            '<path class="grid" d="M{0} {1:.1f}H{2}"/><text class="tick y" x="{3}" y="{1:.1f}">{4}</text>'
        ).format(LEFT, place, RIGHT, LEFT - 7, number)
    yield Markup('<path class="axis" d="M{0} {1}V{2}H{3}"/>').format(LEFT, TOP, BOTTOM, RIGHT)
    # First, middle and last night have a date.
    for index in sorted({0, len(dots) // 2, len(dots) - 1}):
        yield Markup('<text class="tick x" x="{:.1f}" y="{}">{}</text>').format(
            x(index), BOTTOM + 16, f"{dots[index].at:%m-%d}"
        )


def _change(place: float, change: str) -> Markup:
    return Markup('<path class="changed" d="M{:.1f} {}V{}"><title>{}</title></path>').format(place, TOP, BOTTOM, change)


def _levels(values: Sequence[float], x: Linear, y: Linear) -> Iterator[Markup]:
    for start, stop in pairwise([0, *change_points(values), len(values)]):
        level = median(values[start:stop])
        yield Markup('<path class="level" d="M{:.1f} {:.1f}H{:.1f}"><title>{}</title></path>').format(
            x(start - 0.4), y(level), x(stop - 0.6), f"level {level:.4g}"
        )


def _dot(dot: Dot, x: float, y: float) -> Markup:
    if dot.stands_out:
        return Markup(
            '<path class="outside" d="{}" transform="translate({:.1f} {:.1f})"><title>{}</title></path>'
        ).format(STOOD_OUT, x, y, dot.label)
    return Markup('<circle class="night" cx="{:.1f}" cy="{:.1f}" r="3.2"><title>{}</title></circle>').format(
        x, y, dot.label
    )
