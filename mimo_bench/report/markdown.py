"""The report as Markdown, for the summary page of a CI job.

record -> [report]: rendered from the record, and never read back by a program.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from mimo_bench.record.schema import Environment, LayoutRecord, RunRecord
from mimo_bench.report import words
from mimo_bench.report.changes import Changes

SIZE_LIMIT = 1024 * 1024
"""Bytes; GitHub refuses a longer summary."""

TRUNCATED = "\n\n*Cut here: the whole report is in `report.html`.*\n"


def render_markdown(record: RunRecord, *, changes: Changes | None = None) -> str:
    """The report as GitHub-flavoured Markdown of less than 1 MiB."""
    sections = (
        _head(record),
        _changes(changes),
        table(
            ("layout", "placement", "grids", "status", "loss rel", "grad norm rel", "tokens/s", "step median"),
            (_verdict_row(layout) for layout in record.layouts),
        ),
        _section("Not passed", _reasons(record)),
        _section("Held-out samples answered right", "\n".join(f"- {_escape(said)}" for said in words.learnt(record))),
        _section("Ranking", _ranking(record)),
        _section("Start-up", _launches(record)),
        _section("Environment", _environment(record.environment)),
    )
    return _fit("\n\n".join(section for section in sections if section) + "\n")


def _head(record: RunRecord) -> str:
    lines = [f"## {_escape(record.question)}", f"**{len(record.layouts)} layouts: {words.summary(record.layouts)}**"]
    if record.tainted is not None:
        lines.append(f"**Do not compare these numbers:** {_escape(record.tainted)}")
    if record.finished_at is None:
        lines.append("**The run did not finish.**")
    return "\n\n".join(lines)


def _changes(changes: Changes | None) -> str:
    if changes is None:
        return ""
    said = [f"- {change.direction}: {_escape(change.layout)}: {_escape(change.said)}" for change in changes.changes]
    return _section(f"Since {_escape(changes.since)}", "\n".join(said) or _escape(words.no_changes(changes)))


def _verdict_row(layout: LayoutRecord) -> tuple[str, ...]:
    worst = words.worst_grad_norm(layout.parity)
    return (
        layout.name,
        layout.placement,
        words.grids(layout),
        words.STATUS_WORDS[layout.status],
        words.relative(layout.parity.loss_rel_max if layout.parity else None),
        f"{words.relative(worst[1])} {worst[0]}" if worst else words.DASH,
        words.rate(layout.timing.tokens_per_second if layout.timing else None),
        words.seconds(layout.timing.step_seconds_median if layout.timing else None),
    )


def _reasons(record: RunRecord) -> str:
    return "\n".join(
        f"- {_escape(layout.name)}, {words.STATUS_WORDS[layout.status]}: {_escape(words.first_line(layout.reason))}"
        for layout in record.layouts
        if layout.status != "passed"
    )


def _ranking(record: RunRecord) -> str:
    places = [
        f"{place}. {_escape(ranked.name)}: {_escape(words.first_line(ranked.reason))}"
        for place, ranked in enumerate(record.ranking, start=1)
    ]
    return "\n".join([_escape(words.ranked_by(record)), "", *places]) if places else ""


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


def _section(title: str, body: str) -> str:
    return f"### {title}\n\n{body}" if body else ""


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
