"""The settings that a layout declares: those in which it departs from the defaults.

record -> [report]: page and Markdown say them in the same words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mimo_bench.record.schema import LayoutRecord, RunRecord
from mimo_bench.scenario import Settings

HEADS = ("layout", "settings")


def declared(layout: LayoutRecord) -> dict[str, Any]:
    """The settings in which a layout departs from the defaults."""
    defaults = Settings().model_dump()
    return {name: value for name, value in layout.settings.items() if value != defaults.get(name)}


def declared_settings(layout: LayoutRecord) -> str:
    """The declared settings on one line; empty where there are none."""
    return ", ".join(_said(name, value) for name, value in declared(layout).items())


def settings_rows(record: RunRecord) -> Iterator[tuple[str, str]]:
    """A row for every layout that declares settings."""
    for layout in record.layouts:
        if said := declared_settings(layout):
            yield layout.name, said


def _said(name: str, value: Any) -> str:
    return name if value is True else f"{name} = {value}"
