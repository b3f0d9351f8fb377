"""Curves over steps as inline SVG.

Every text goes through markupsafe, every colour is a class that the style sheet fills, for light
and for dark paper. A layout keeps its colour, marker and dash in every chart; no two layouts share all three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mimo_bench.record import RunRecord
from mimo_bench.report.charts.scales import Decades, Linear, Scale

NUM_COLOURS = 6
MOST_LOOKS = 12
QUIET = "quiet"
DASHES = ("", "7 3", "2 3")
MARKERS = (
    "M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0-6.8 0z",  # disc
    "M-3-3h6v6h-6z",  # square
    "M0-4.2L4 3H-4z",  # triangle
    "M0-4.4L4.4 0L0 4.4L-4.4 0z",  # diamond
    "M0 4.2L4-3H-4z",  # triangle, pointing down
    "M-4-1.3H-1.3V-4H1.3V-1.3H4V1.3H1.3V4H-1.3V1.3H-4z",  # plus
    "M-4.2-2.2V2.2L4.2-2.2V2.2z",  # bow tie
)

WIDTH, HEIGHT = 400, 280
LEFT, RIGHT, TOP, BOTTOM = 60, 396, 10, 240
ZERO = BOTTOM - 8
"""Place of zero on a logarithmic axis."""

MOST_POINTS = 60
MOST_MARKERS = 8
"""A long run is thinned to these, so that the page stays small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One layout's values over steps; None where a value is not known or not finite."""

    name: str
    index: int
    """Of the layout in the record, which the page's script knows it by."""
    look: str
    """Its classes: colour, marker and dash, from `looks`."""
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """A horizontal line that should not be crossed."""

    value: float
    label: str


def looks(record: RunRecord) -> dict[str, str]:
    """Return the look of each layout in every chart of the page.

    Of many layouts the eye distinguishes only some: those that did not pass, and the best of the ranking. The others
    share one quiet look, and the page's script highlights the one that the user picks.
    """
    others = [layout for layout in record.layouts if layout.name != record.baseline]
    chosen = [layout.name for layout in others]
    if len(others) > MOST_LOOKS:
        unhappy = [layout.name for layout in others if layout.status != "passed" and layout.losses]
        best = [place.name for place in record.ranking if place.name != record.baseline]
        chosen = [*unhappy[: MOST_LOOKS // 2], *best][:MOST_LOOKS]
    quiet = {layout.name: QUIET for layout in others}
    return {record.baseline: "base"} | quiet | {name: _look(index) for index, name in enumerate(chosen)}


def _look(index: int) -> str:
    return f"c{index % NUM_COLOURS} m{index % len(MARKERS)} d{index // NUM_COLOURS % len(DASHES)}"


def markers() -> Markup:
    """The outlines of all markers, for the top of the page; charts refer to them."""
    paths = (Markup('<path id="m{}" d="{}"/>').format(index, path) for index, path in enumerate(MARKERS))
    return Markup('<svg width="0" height="0" aria-hidden="true"><defs>{}</defs></svg>').format(Markup().join(paths))


def marker_of(look: str) -> str:
    """The outline that a look is drawn with."""
    return look.split()[1] if " " in look else "m0"


def swatch(look: str) -> Markup:
    """A sample of line and marker, for a legend."""
    return Markup(
        '<svg class="swatch {0}" viewBox="0 0 34 14" width="34" height="14" aria-hidden="true">'
        '<path class="line" d="M1 7H33"/><use href="#{1}" x="17" y="7"/></svg>'
    ).format(look, marker_of(look))


def loss_chart(curves: Sequence[Curve]) -> Markup:
    """Losses over steps on a linear axis."""
    known = [value for curve in curves for value in curve.values if value is not None]
    return _chart(curves, y=Linear.over(known, start=BOTTOM, stop=TOP), label="loss", form="{:.6g}")


def difference_chart(curves: Sequence[Curve], bounds: Sequence[Bound], *, label: str) -> Markup:
    """Relative differences over steps on a logarithmic axis, with the bounds that they are judged by."""
    known = [value for curve in curves for value in curve.values if value is not None]
    y = Decades.over([*known, *(bound.value for bound in bounds)], start=ZERO - 20, stop=TOP + 6, zero=ZERO)
    return _chart(curves, y=y, label=label, form="{:.2e}", bounds=bounds)


def _chart(curves: Sequence[Curve], *, y: Scale, label: str, form: str, bounds: Sequence[Bound] = ()) -> Markup:
    num_steps = max((len(curve.values) for curve in curves), default=0)
    x = Linear(low=0.0, high=max(num_steps - 1, 1), start=LEFT + 10, stop=RIGHT - 10, whole=True)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{} over steps">').format(
            WIDTH, HEIGHT, label
        ),
        *_axes(x, y, label),
        *(_bound(bound, y) for bound in bounds),
        # The last drawn is on top: the quiet ones first.
        *(_curve(curve, x, y, form) for curve in sorted(curves, key=lambda curve: curve.look != QUIET)),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def _axes(x: Linear, y: Scale, label: str) -> Iterator[Markup]:
    for place, number in y.ticks:
        yield Markup(
            '<path class="grid" d="M{0} {1:.1f}H{2}"/><text class="tick y" x="{3}" y="{1:.1f}">{4}</text>'
        ).format(LEFT, place, RIGHT, LEFT - 7, number)
    for place, number in x.ticks:
        yield Markup('<text class="tick x" x="{:.1f}" y="{}">{}</text>').format(place, BOTTOM + 16, number)
    yield Markup('<path class="axis" d="M{0} {1}V{2}H{3}"/>').format(LEFT, TOP, BOTTOM, RIGHT)
    yield Markup('<text class="label x" x="{}" y="{}">step</text>').format((LEFT + RIGHT) / 2, HEIGHT - 4)
    yield Markup('<text class="label y" transform="translate(12 {}) rotate(-90)">{}</text>').format(
        (TOP + BOTTOM) / 2, label
    )


def _bound(bound: Bound, y: Scale) -> Markup:
    return Markup(
        '<rect class="beyond" x="{0}" y="{1}" width="{2}" height="{3:.1f}"/>'
        '<path class="bound" d="M{0} {4:.1f}H{5}"/><text class="bound" x="{6}" y="{7:.1f}">{8}</text>'
    ).format(
        LEFT, TOP, RIGHT - LEFT, y(bound.value) - TOP, y(bound.value), RIGHT, RIGHT - 4, y(bound.value) - 5, bound.label
    )


def _curve(curve: Curve, x: Scale, y: Scale, form: str) -> Markup:
    points = _thinned(curve.values, MOST_POINTS)
    path = " ".join(
        f"{'L' if index and points[index - 1][1] is not None else 'M'}{x(step):.1f} {y(value):.1f}"
        for index, (step, value) in enumerate(points)
        if value is not None
    )
    # A quiet curve is one of many: it has a name when it is pointed at, and no markers.
    most = 0 if curve.look == QUIET else MOST_MARKERS
    marks = (
        Markup('<use href="#{}" x="{:.1f}" y="{:.1f}"><title>{}</title></use>').format(
            marker_of(curve.look), x(step), y(value), f"{curve.name}, step {step}: {form.format(value)}"
        )
        for step, value in _thinned(curve.values, most)
        if value is not None
    )
    return Markup('<g class="{}" data-layout="{}"><path class="line" d="{}"><title>{}</title></path>{}</g>').format(
        curve.look, curve.index, path, curve.name, Markup().join(marks)
    )


def _thinned(values: Sequence[float | None], most: int) -> list[tuple[int, float | None]]:
    """At most `most` of the steps with their values: the largest of every stretch, because a spike is the news."""
    if not most:
        return []
    stride = max(1, -(-len(values) // most))
    stretches = ([*enumerate(values)][start : start + stride] for start in range(0, len(values), stride))
    return [max(stretch, key=lambda point: -1.0 if point[1] is None else point[1]) for stretch in stretches]
