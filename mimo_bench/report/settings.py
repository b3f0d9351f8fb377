"""The settings that a layout declares: those in which it departs from the defaults.

Page and Markdown say them in the same words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mimo_bench.layout import Settings
from mimo_bench.record import LayoutRecord, RunRecord

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


def off_in_parity(layout: LayoutRecord) -> tuple[str, ...]:
    """The declared settings that parity mode trains without."""
    # Not validated: an older record may hold what a scenario may not say any more.
    in_parity = Settings.model_construct(**layout.settings).for_parity()
    return tuple(
        _said(name, value) for name, value in declared(layout).items() if value != getattr(in_parity, name, value)
    )


def all_off_in_parity(record: RunRecord) -> str:
    """A sentence on the declared settings that parity mode left off; empty where there are none, or no such mode."""
    off = dict.fromkeys(name for layout in record.layouts for name in off_in_parity(layout))
    if not off or "parity" not in record.modes:
        return ""
    held = "judged as timed" if "timing" in record.modes else "not judged here"
    return f"Left off in parity mode and {held}: {', '.join(off)}."


def _said(name: str, value: Any) -> str:
    return name if value is True else f"{name} = {value}"
