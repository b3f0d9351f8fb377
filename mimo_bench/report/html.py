"""The report as one HTML file that needs nothing else: no script, no font, no image, no network.

record -> [report]: this room lays out what the template shows; the template holds the words around it.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from mimo_bench.record.schema import LayoutRecord, RunRecord
from mimo_bench.report import plots, strips, words
from mimo_bench.report.changes import Changes
from mimo_bench.report.curves import grad_norm_differences, loss_differences
from mimo_bench.report.definitions import DEFINITIONS
from mimo_bench.scenario import Settings

GIB = 1024**3


def render_html(record: RunRecord, *, changes: Changes | None = None) -> str:
    """The whole page."""
    return _template().render(
        record=record,
        changes=changes,
        looks=looks(record),
        figures=_figures(record),
        timed=_timed(record),
        launches=_launches(record),
        remembered=_remembered(record),
        definitions=DEFINITIONS,
        words=words,
        changed_settings=changed_settings,
        swatch=plots.swatch,
        markers=plots.markers(),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("mimo_bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def looks(record: RunRecord) -> dict[str, str]:
    """How each layout looks in every chart of the page."""
    others = [layout.name for layout in record.layouts if layout.name != record.baseline]
    return {record.baseline: plots.look(None)} | {name: plots.look(index) for index, name in enumerate(others)}


def changed_settings(layout: LayoutRecord) -> dict[str, Any]:
    """The settings in which a layout departs from the defaults."""
    defaults = Settings().model_dump()
    return {name: value for name, value in layout.settings.items() if value != defaults.get(name)}


def _figures(record: RunRecord) -> list[tuple[str, Markup]]:
    """The curves of the parity steps, each with its caption; none where no step was taken."""
    trained = [layout for layout in record.layouts if layout.losses]
    if not trained:
        return []
    look = looks(record)
    losses = [plots.Curve(name=layout.name, look=look[layout.name], values=layout.losses) for layout in trained]
    figures = [("Loss of every parity step", plots.loss_chart(losses))]
    for caption, bound, differences in (
        ("Loss, relative difference to the baseline", "loss_rel", loss_differences),
        ("Gradient norm of the worst module, relative difference", "grad_norm_rel", grad_norm_differences),
    ):
        curves = [
            plots.Curve(name=name, look=look[name], values=values) for name, values in differences(record).items()
        ]
        if curves:
            chart = plots.difference_chart(curves, _bounds(record, bound), label="relative difference")
            figures.append((caption, chart))
    return figures


def _bounds(record: RunRecord, field: str) -> list[plots.Bound]:
    """The tolerances that were applied; one line where all layouts were judged by the same."""
    tolerances = (layout.parity.tolerance for layout in record.layouts if layout.parity)
    values = {getattr(tolerance, field) for tolerance in tolerances if tolerance}
    return [plots.Bound(value=value, label=f"tolerance {value:.1e}") for value in sorted(values) if value > 0.0]


def _timed(record: RunRecord) -> tuple[Markup, list[tuple[LayoutRecord, Markup]]]:
    """The axis of the step times, and a strip for every layout that was timed."""
    timed = [(layout, layout.timing) for layout in record.layouts if layout.timing]
    scale = strips.strip_scale(value for _, timing in timed for value in timing.step_seconds)
    draw = partial(strips.dot_strip, scale=scale)
    rows = [
        (layout, draw(timing.step_seconds, median=timing.step_seconds_median, name=layout.name))
        for layout, timing in timed
    ]
    return strips.axis_strip(scale), rows


def _launches(record: RunRecord) -> tuple[Markup, list[dict[str, object]]]:
    """The axis of the start-up times, and a strip for every launch."""
    launches = [(layout.name, launch) for layout in record.layouts for launch in layout.launches]
    scale = strips.strip_scale(launch.start_seconds + launch.setup_seconds for _, launch in launches)
    rows: list[dict[str, object]] = []
    for name, launch in launches:
        parts = (("start", launch.start_seconds), ("setup", launch.setup_seconds))
        strip = strips.bar_strip(parts, scale=scale, name=f"{name} {launch.mode}", unit="s")
        rows.append({"name": name, "launch": launch, "strip": strip})
    return strips.axis_strip(scale), rows


def _remembered(record: RunRecord) -> tuple[Markup, list[dict[str, object]]]:
    """The axis of device memory in GiB, and a strip for every module of every layout that knows its own."""
    modules = [
        (layout.name, name, memory)
        for layout in record.layouts
        if layout.memory
        for name, memory in layout.memory.modules.items()
    ]
    scale = strips.strip_scale(memory.peak_reserved_bytes / GIB for _, _, memory in modules)
    rows: list[dict[str, object]] = []
    for layout, module, memory in modules:
        beyond = memory.peak_reserved_bytes - memory.peak_allocated_bytes
        parts = (("allocated", memory.peak_allocated_bytes / GIB), ("reserved beyond", beyond / GIB))
        strip = strips.bar_strip(parts, scale=scale, name=f"{layout} {module}", unit="GiB")
        rows.append({"name": layout, "module": module, "memory": memory, "strip": strip})
    return strips.axis_strip(scale), rows
