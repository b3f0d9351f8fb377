"""The differences of clean runs as shares of the bounds that they were held against: one row of dots a quantity.

A drawing of its own, for a committed account of false alarms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from mimo_bench.report.charts.scales import Decades

WIDTH, ROW, TOP, LEFT = 720, 34, 40, 130


def render_alarms(shares: Mapping[str, Sequence[float]]) -> str:
    """An SVG: every share as a dot on a logarithmic axis, the bound as a line at 1."""
    values = [1.0, *(share for some in shares.values() for share in some)]
    scale = Decades.over(values, start=LEFT + 40, stop=WIDTH - 20, zero=LEFT + 10)
    height = TOP + ROW * len(shares) + 10
    parts = [_axis(scale, height), _bound(scale, height)]
    parts += [_row(name, some, TOP + ROW * (index + 0.5), scale) for index, (name, some) in enumerate(shares.items())]
    style = Markup(
        "<style>text{{font:12px sans-serif;fill:#444}}line{{stroke:#ccc}}line.bound{{stroke:#b00;stroke-width:2}}"
        "circle{{fill:#26c;fill-opacity:.25}}</style>"
    ).format()
    head = Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}">').format(
        WIDTH, height
    )
    return str(head + style + Markup().join(parts) + Markup("</svg>\n"))


def _axis(scale: Decades, height: float) -> Markup:
    line = Markup('<line x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>')
    number = Markup('<text x="{:.1f}" y="16" text-anchor="middle">{}</text>')
    return Markup().join(
        line.format(place, TOP - 16, height - 10) + number.format(place, said) for place, said in scale.ticks
    )


def _bound(scale: Decades, height: float) -> Markup:
    return Markup(
        '<line class="bound" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"><title>the bound</title></line>'
    ).format(scale(1.0), TOP - 16, height - 10)


def _row(name: str, shares: Sequence[float], middle: float, scale: Decades) -> Markup:
    dots = Markup().join(
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4"/>').format(scale(share), middle + (index % 7 - 3) * 3)
        for index, share in enumerate(shares)
    )
    return Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 10, middle + 4, name) + dots
