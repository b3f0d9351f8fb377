"""The report as Markdown, for the summary page of a CI job.

Rendered from the record, and never read back by a program.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from mimo_bench.record import Environment, LayoutRecord, RunRecord
from mimo_bench.report import proof, settings, skew, words
from mimo_bench.report.changes import Changes
from mimo_bench.report.compared import Compared, compared
from mimo_bench.report.history.judgement import regressions
from mimo_bench.report.html.selection import by_place
from mimo_bench.report.ranking import advice
from mimo_bench.util import counted

SIZE_LIMIT = 1024 * 1024
"""Bytes; GitHub refuses a longer summary."""

HEADS = (
    "layout",
    "placement",
    "grids",
    "status",
    "loss of bound",
    "gradient norm of bound",
    "tokens/s per rank",
    "step median",
    "peak memory",
)

TRUNCATED = "\n\n*Cut here: the whole report is in `report.html`.*\n"


def render_markdown(record: RunRecord, *, changes: Changes | None = None) -> str:
    """The report as GitHub-flavoured Markdown of less than 1 MiB: what matters first, the long lists folded."""
    places = {place.name: str(index) for index, place in enumerate(words.ranking(record), start=1)}
    sections = (
        _head(record),
        _recommendation(record),
        _section("Not passed", _reasons(record)),
        _section("Held as timed only", _held_as_timed(record)),
        _changes(changes),
        table(
            (words.place_title(record), *HEADS),
            (_verdict_row(layout, places.get(layout.name, words.DASH)) for layout in by_place(record)),
        ),
        _folded("Settings", _rows(settings.HEADS, settings.settings_rows(record))),
        _section("Held-out samples answered right", "\n".join(f"- {_escape(said)}" for said in words.learnt(record))),
        _folded("Every verdict, with its reason and its band", _verdicts(record)),
        _folded("Each difference, and its bound", _rows(proof.DIFFERENCES, proof.differences(record))),
        _folded("Noise: the baseline once more, equal but for rounding", _rows(proof.NOISE, proof.noise(record))),
        _folded("Ranking", _ranking(record)),
        (_section if skew.is_uneven(record) else _folded)("Samples", _samples(record)),
        _folded("Start-up", _launches(record)),
        _folded("Environment", _environment(record.environment)),
    )
    return _fit("\n\n".join(section for section in sections if section) + "\n")


def _head(record: RunRecord) -> str:
    lines = [
        f"## {_escape(record.question)}",
        f"**{counted(len(record.layouts), 'layout')}: {words.summary(record.layouts)}**",
    ]
    if record.tainted is not None:
        lines.append(f"**Do not compare these numbers:** {_escape(record.tainted)}")
    if slower := dict.fromkeys(each.layout for each in regressions(record.history)):
        lines.append(f"**Regressed: {_escape(', '.join(slower))}**")
    if record.finished_at is None:
        lines.append("**The run did not finish.**")
    if said := words.skipped(record):
        lines.append(f"**{_escape(said)}**")
    return "\n\n".join(lines)


def _changes(changes: Changes | None) -> str:
    if changes is None:
        return ""
    said = [f"- {change.direction}: {_escape(change.layout)}: {_escape(change.said)}" for change in changes.changes]
    return _section(f"Since {_escape(changes.since)}", "\n".join(said) or _escape(words.no_changes(changes)))


def _recommendation(record: RunRecord) -> str:
    if (best := words.recommended(record)) is None:
        return _section("Take", words.none_to_take(record))
    said = [f"**{_escape(best.name)}**: {_escape(best.reason)}.", *map(_escape, advice(record.layouts))]
    return _section("Take", "\n\n".join(said))


def _verdict_row(layout: LayoutRecord, place: str) -> tuple[str, ...]:
    found, timing = compared(layout.parity), layout.timing
    return (
        place,
        layout.name,
        layout.placement,
        words.grids(layout),
        words.status(layout),
        _difference(found, found.loss_rel, found.loss_bound),
        _difference(found, found.worst_grad_norm_rel, found.grad_norm_bound),
        f"{words.rate(timing.estimated_rate if timing else None)} {words.margin(timing)}".strip(),
        words.seconds(timing.estimated_step_seconds if timing else None),
        words.size(words.peak_allocated(layout)),
    )


def _difference(found: Compared, rel: float | None, bound: float | None) -> str:
    return words.within(rel, bound) + (", as timed" if found.is_as_timed and rel is not None else "")


def _verdicts(record: RunRecord) -> str:
    lines = [
        f"- {_escape(layout.name)}: {_escape(said)}" for layout in record.layouts if (said := words.verdict(layout))
    ]
    off = settings.all_off_in_parity(record)
    return "\n".join([f"{_escape(off)}\n", *lines] if off and lines else lines)


def _reasons(record: RunRecord) -> str:
    return "\n".join(
        f"- {_escape(layout.name)}, {words.status(layout)}: {_escape(words.first_line(layout.reason))}"
        + (f"; {_escape(layout.parity.first_difference)}" if layout.parity and layout.parity.first_difference else "")
        for layout in record.layouts
        if not words.is_good(layout)
    )


def _held_as_timed(record: RunRecord) -> str:
    lines = [
        f"- {_escape(layout.name)}: {_escape(words.held_as_timed(layout.parity))}"
        for layout in record.layouts
        if layout.parity is not None and words.state(layout) == "as_timed"
    ]
    return "\n".join(lines)


def _ranking(record: RunRecord) -> str:
    places = [
        f"{place}. {_escape(ranked.name)}: {_escape(words.first_line(ranked.reason))}"
        for place, ranked in enumerate(words.ranking(record), start=1)
    ]
    return "\n".join([_escape(words.ranked_by(record)), "", *places]) if places else ""


def _samples(record: RunRecord) -> str:
    rows = [
        (
            layout.name,
            skew.busiest(layout),
            skew.cost(layout),
            words.rate(layout.loading.samples_per_second_per_worker),
            words.percent(layout.loading.stall_share),
        )
        for layout in record.layouts
        if layout.loading is not None
    ]
    return f"{_escape(skew.note(record))}\n\n{table(skew.HEADS, rows)}" if rows else ""


def _launches(record: RunRecord) -> str:
    rows = [
        (
            layout.name,
            launch.mode,
            *map(words.seconds, (launch.start_seconds, launch.setup_seconds, launch.gap_seconds)),
        )
        for layout in record.layouts
        for launch in layout.launches
    ]
    return table(("layout", "mode", "start", "setup", "gap since the last launch"), rows) if rows else ""


def _environment(environment: Environment) -> str:
    known = environment.model_dump() | {
        "hosts": ", ".join(environment.hosts),
        "devices": ", ".join(device.name for device in environment.devices),
    }
    return table(("environment", ""), ((name, words.text(value)) for name, value in known.items()))


def _rows(heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    """A table without the columns of which nothing is known, or nothing where it has no rows."""
    columns = list(zip(heads, *rows, strict=True))
    known = [column for column in columns if any(cell != words.DASH for cell in column[1:])]
    kept_heads, *kept_rows = zip(*known, strict=True) if known else ((),)
    return table(kept_heads, kept_rows) if kept_rows else ""


def _section(title: str, body: str) -> str:
    return f"### {title}\n\n{body}" if body else ""


def _folded(title: str, body: str) -> str:
    """A section that GitHub shows closed; the blank lines let it read the Markdown within."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>" if body else ""


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table whose cells show what they hold, whatever it is."""

    def lines() -> Iterator[str]:
        yield _line(heads)
        yield re.sub(r"[^|]+", " --- ", _line(heads))
        yield from map(_line, rows)

    return "\n".join(lines())


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_escape, cells))} |"


def _escape(said: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no HTML, no further table cell."""
    said = " ".join(said.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", said)


def _fit(markdown: str) -> str:
    encoded = markdown.encode()
    if len(encoded) < SIZE_LIMIT:
        return markdown
    whole_lines = encoded[: SIZE_LIMIT - len(TRUNCATED) - 1].rpartition(b"\n")[0]
    return whole_lines.decode() + TRUNCATED
