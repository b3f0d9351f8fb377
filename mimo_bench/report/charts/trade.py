"""Speed against memory as inline SVG: every ranked layout a point, and the line of those that no other beats at both.

A point is a link to its layout; its interval is drawn where the ranking has one.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mimo_bench.record import Interval, RunRecord
from mimo_bench.report.charts.plots import marker_of
from mimo_bench.report.charts.scales import Linear, Scale
from mimo_bench.report.ranking import candidates, rate_interval

GIB = 1024**3
WIDTH, HEIGHT = 820, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 806, 14, 292
MOST_LABELS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One ranked layout."""

    index: int
    """Of the layout in the record, which its place in the page is named by."""
    name: str
    look: str
    gib: float
    rate: float
    interval: Interval | None
    is_best: bool
    """No other layout is both faster and leaner."""
    opens: bool = True
    """Whether the page has a place to lead to."""


def trade_points(record: RunRecord, looks: Mapping[str, str], *, in_full: Container[str]) -> list[Point]:
    """The ranked layouts whose memory is known, best first; those `in_full` can be opened."""
    indices = {layout.name: index for index, layout in enumerate(record.layouts)}
    points: list[Point] = []
    leanest = float("inf")
    for candidate in candidates(record.layouts):
        if (peak := candidate.peak_allocated_bytes) is None:
            continue
        points.append(
            Point(
                index=indices[candidate.name],
                name=candidate.name,
                look=looks[candidate.name],
                gib=peak / GIB,
                rate=candidate.rate,
                interval=rate_interval(candidate.timing),
                # Candidates fall in speed, so what is leaner than all before it is beaten by none.
                is_best=peak < leanest,
                opens=candidate.name in in_full,
            )
        )
        leanest = min(leanest, peak)
    return points


def trade_chart(points: Sequence[Point], *, limit_gib: float | None) -> Markup:
    """Tokens per second and GPU over peak memory, with the frontier and the device's limit."""
    sizes = [point.gib for point in points]
    # A limit far off would push all points into a corner; it is then told in words.
    is_near = limit_gib is not None and limit_gib <= 1.5 * max(sizes)
    x = Linear.over([*sizes, limit_gib] if limit_gib is not None and is_near else sizes, start=LEFT + 8, stop=RIGHT - 8)
    ends = [end for point in points for end in _ends(point)]
    y = Linear.over(ends, start=BOTTOM - 6, stop=TOP + 14)
    parts = [
        Markup(
            '<svg class="chart" viewBox="0 0 {} {}" role="group" aria-label="tokens/s per GPU over peak memory">'
        ).format(WIDTH, HEIGHT),
        *_axes(x, y),
        *_limit(limit_gib, x, is_near=is_near),
        _frontier([point for point in points if point.is_best], x, y),
        *(_point(point, x, y) for point in reversed(points)),
        *_labels(points, x, y),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def _ends(point: Point) -> tuple[float, ...]:
    return (point.rate,) if point.interval is None else (point.interval.low, point.interval.high)


def _axes(x: Linear, y: Linear) -> Iterator[Markup]:
    for place, number in y.ticks:
        yield Markup(
            '<path class="grid" d="M{0} {1:.1f}H{2}"/><text class="tick y" x="{3}" y="{1:.1f}">{4}</text>'
        ).format(LEFT, place, RIGHT, LEFT - 7, number)
    for place, number in x.ticks:
        yield Markup('<text class="tick x" x="{:.1f}" y="{}">{}</text>').format(place, BOTTOM + 16, number)
    yield Markup('<path class="axis" d="M{0} {1}V{2}H{3}"/>').format(LEFT, TOP, BOTTOM, RIGHT)
    yield Markup('<text class="label x" x="{}" y="{}">peak memory of the fullest GPU, GiB</text>').format(
        (LEFT + RIGHT) / 2, HEIGHT - 6
    )
    yield Markup('<text class="label y" transform="translate(12 {}) rotate(-90)">tokens/s per GPU</text>').format(
        (TOP + BOTTOM) / 2
    )


def _limit(limit_gib: float | None, x: Scale, *, is_near: bool) -> Iterator[Markup]:
    if limit_gib is not None and not is_near:
        yield Markup('<text class="bound" x="{}" y="{}">the device holds {:.1f} GiB &rarr;</text>').format(
            RIGHT, BOTTOM - 8, limit_gib
        )
    elif limit_gib is not None:
        yield Markup(
            '<path class="bound" d="M{0:.1f} {1}V{2}"/>'
            '<text class="bound" x="{3:.1f}" y="{4}">device {5:.1f} GiB</text>'
        ).format(x(limit_gib), TOP, BOTTOM, x(limit_gib) - 5, TOP + 12, limit_gib)


def _frontier(best: Sequence[Point], x: Scale, y: Scale) -> Markup:
    """A staircase: at a given memory, the fastest that fits."""
    path = " ".join(
        f"M{x(point.gib):.1f} {y(point.rate):.1f}" if not index else f"V{y(point.rate):.1f}H{x(point.gib):.1f}"
        for index, point in enumerate(best)
    )
    return Markup('<path class="frontier" d="{}"/>').format(path)


def _point(point: Point, x: Scale, y: Scale) -> Markup:
    whisker = Markup()
    if point.interval is not None:
        whisker = Markup('<path class="whisker" d="M{:.1f} {:.1f}V{:.1f}"/>').format(
            x(point.gib), y(point.interval.low), y(point.interval.high)
        )
    leads = Markup(' href="#layout-{}"').format(point.index) if point.opens else ""
    said = f"{point.name}: {point.rate:,.0f} tokens/s per GPU, {point.gib:.1f} GiB"
    return Markup(
        '<a{7} class="point {1}" data-layout="{0}" aria-label="{2}">{3}'
        '<use href="#{4}" x="{5:.1f}" y="{6:.1f}"/><title>{2}</title></a>'
    ).format(point.index, point.look, said, whisker, marker_of(point.look), x(point.gib), y(point.rate), leads)


def _labels(points: Sequence[Point], x: Scale, y: Scale) -> Iterator[Markup]:
    """Names on the frontier, and of all where there are few; none over another."""
    wanted = points if len(points) <= MOST_LABELS else [point for point in points if point.is_best]
    taken: list[tuple[float, float]] = []
    for point in wanted:
        across, up = x(point.gib), y(point.rate) - 9
        if len(taken) == MOST_LABELS or any(abs(up - u) < 13 and abs(across - a) < 150 for a, u in taken):
            continue
        taken.append((across, up))
        # Next to the point, where its interval is not drawn through it.
        anchor, label_x = ("end", across - 6) if across > (LEFT + RIGHT) / 2 else ("start", across + 6)
        yield Markup('<text class="name" text-anchor="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
            anchor, label_x, up, point.name
        )
