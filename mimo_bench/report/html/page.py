"""The report as one HTML file that needs nothing else: no font, no image, no network, and no script but its own.

This room lays out what the template shows; the template holds the words around it. The page forbids
itself (by its content security policy) any style and script but those written here, and any request.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from mimo_bench.record import RunRecord
from mimo_bench.report import skew, words
from mimo_bench.report.changes import Changes
from mimo_bench.report.charts import plots, trade
from mimo_bench.report.charts.curves import grad_norm_differences, loss_differences
from mimo_bench.report.charts.ranks import rank_data
from mimo_bench.report.charts.strips import axis_strip, dot_strip, strip_scale
from mimo_bench.report.compared import compared
from mimo_bench.report.definitions import DEFINITIONS
from mimo_bench.report.html import details
from mimo_bench.report.html.selection import Selection, by_place, select
from mimo_bench.report.html.templating import template
from mimo_bench.report.ranking import advice
from mimo_bench.report.settings import declared_settings
from mimo_bench.util import counted

GIB = 1024**3


def render_html(record: RunRecord, *, changes: Changes | None = None) -> str:
    """The whole page."""
    looks, shown = plots.looks(record), select(record)
    places = {place.name: index for index, place in enumerate(words.ranking(record), start=1)}
    return template("report.html.j2").render(
        record=record,
        changes=changes,
        advice=advice(record.layouts),
        indices={layout.name: index for index, layout in enumerate(record.layouts)},
        places=places,
        ordered=by_place(record),
        ties={place.name for place in words.ranking(record) if place.tied_with_best},
        steps=_steps(record),
        trade=_trade(record, looks, shown),
        figures=_figures(record, looks),
        looks=looks,
        details=details.of_layouts(record, shown.in_full),
        settings=declared_settings,
        compared=compared,
        unhappy=[layout for layout in record.layouts if not words.is_good(layout)],
        shown=shown,
        skew=skew,
        rank_data=rank_data(record, shown.drawn),
        definitions=DEFINITIONS,
        words=words,
        counted=counted,
        swatch=plots.swatch,
        markers=plots.markers(),
        style=_source("report.css"),
        script=_source("table.js", "ranks.js"),
        policy=_policy(),
    )


@cache
def _source(*names: str) -> Markup:
    """Style or script as it is in the package; it is ours, so it is not escaped."""
    folder = files("mimo_bench.report.html") / "templates"
    return Markup("\n" + "".join((folder / name).read_text(encoding="ascii") for name in names))


@cache
def _policy() -> str:
    """Return the policy for the browser: apply this very style and run this very script, and nothing else."""

    def allowed(*names: str) -> str:
        digest = hashlib.sha256(_source(*names).encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return f"default-src 'none'; style-src {allowed('report.css')}; script-src {allowed('table.js', 'ranks.js')}"


def _figures(record: RunRecord, looks: dict[str, str]) -> list[tuple[str, Markup]]:
    """The curves of the parity steps, each with its caption; none where no step was taken."""
    indices = {layout.name: index for index, layout in enumerate(record.layouts)}

    def curve(name: str, values: Any) -> plots.Curve:
        return plots.Curve(name=name, index=indices[name], look=looks[name], values=values)

    losses = [curve(layout.name, layout.losses) for layout in record.layouts if layout.losses]
    if not losses:
        return []
    figures = [("Loss of every parity step", plots.loss_chart(losses))]
    for caption, bound, differences in (
        ("Loss, relative difference to the baseline", "loss_rel", loss_differences(record)),
        ("Gradient norm of the worst module, relative difference", "grad_norm_rel", grad_norm_differences(record)),
    ):
        if curves := [curve(name, values) for name, values in differences.items()]:
            chart = plots.difference_chart(curves, [*_bounds(record, bound)], label="relative difference")
            figures.append((caption, chart))
    return figures


def _bounds(record: RunRecord, field: str) -> Iterator[plots.Bound]:
    """The tolerances that were applied; one line where all layouts were judged by the same."""
    tolerances = (layout.parity.tolerance for layout in record.layouts if layout.parity)
    values = {getattr(tolerance, field) for tolerance in tolerances if tolerance}
    for value in sorted(values):
        if value > 0.0:
            yield plots.Bound(value=value, label=f"tolerance {value:.1e}")


def _trade(record: RunRecord, looks: dict[str, str], shown: Selection) -> Markup | None:
    """Speed against memory; None where no ranked layout knows its memory, as on CPU ranks."""
    points = trade.trade_points(record, looks, in_full=shown.in_full)
    totals = [device.total_bytes for device in record.environment.devices if device.total_bytes is not None]
    limit = min(totals) / GIB if totals else None
    return trade.trade_chart(points, limit_gib=limit) if points else None


def _steps(record: RunRecord) -> tuple[Markup, dict[str, Markup]]:
    """The axis of the step times, and a strip for every layout that was timed, by name."""
    timed = [(layout, layout.timing) for layout in record.layouts if layout.timing]
    scale = strip_scale(value for _, timing in timed for value in (*timing.step_seconds, *timing.launch_medians))
    strips = {layout.name: dot_strip(timing, scale=scale, name=layout.name) for layout, timing in timed}
    return axis_strip(scale), strips
