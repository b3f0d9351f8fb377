"""`mimo-bench history`: add, list, trend, accept."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from mimo_bench.report import History, accept_since, list_table, write_trend

app = typer.Typer()
history_app = typer.Typer(no_args_is_help=True, help="Keep runs and read what they did from night to night.")
app.add_typer(history_app, name="history")

HistoryDirectory = Annotated[Path, typer.Argument(metavar="HISTORY", help="Where runs are kept.", show_default=False)]


@history_app.command("add")
def history_add(
    history: HistoryDirectory,
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Runs to keep.")],
) -> None:
    """Keep runs: each is copied into the history, and the trend page is written anew."""
    kept = History(history)
    for directory in directories:
        print(f"{directory}: kept as {kept.add(directory)}")
    write_trend(kept)


@history_app.command("list")
def history_list(history: HistoryDirectory) -> None:
    """Print every layout that is followed: its nights, its last step time, and on which kind of machine."""
    kept = History.existing(history)
    print(list_table(kept.nights()))
    for damaged in kept.damaged():
        print(f"mimo-bench: {damaged}: its record cannot be read; mend or remove it", file=sys.stderr)


@history_app.command("trend")
def history_trend(history: HistoryDirectory) -> None:
    """Write the trend page."""
    print(f"trend: {write_trend(History.existing(history))}")


@history_app.command("accept")
def history_accept(
    history: HistoryDirectory,
    scenario: Annotated[str, typer.Option(metavar="NAME", help="The scenario file's name, without .toml.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why this is how it should be from now on.")],
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this layout.", show_default="every layout")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(metavar="TIME", help="UTC.", show_default="the last run's start")
    ] = None,
) -> None:
    """Accept what is measured since the last run as the new reference; written into expectations.toml."""
    entry = accept_since(History.existing(history), scenario=scenario, layout=layout, since=since, reason=reason)
    print(f"{history}: {scenario}: accepted since {entry.since:%Y-%m-%d %H:%M} UTC")
