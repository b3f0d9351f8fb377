"""Starts the entries of `trainer_entries` on ranks that build the trainer of one layout. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mimo_bench.launch import Job, Launcher
from mimo_bench.launch.job import Outcome
from mimo_bench.layout.tables import GridTable, LayoutTable
from mimo_bench.scenario.scenario import Scenario


def scenario(layouts: dict[str, tuple[dict[str, int], dict[str, int]]], **changes: Any) -> Scenario:
    """llava-tiny on `layouts`: the grids of vision and language by name, the baseline first."""
    tables = tuple(
        LayoutTable(name=name, vision=GridTable(**vision), language=GridTable(**language))
        for name, (vision, language) in layouts.items()
    )
    fixed: dict[str, Any] = {"global_batch_size": 4, "global_micro_batch_size": 2, "seq_length": 32, "seed": 3}
    fixed["model"] = "llava-tiny"
    made = Scenario(question="Is every part right?", baseline=tables[0].name, layout=tables, **fixed | changes)
    made.check()
    return made


def launch_entry(
    launcher: Launcher,
    entry: str,
    made: Scenario,
    layout: str,
    folder: Path,
    *,
    module: str = "trainer_entries",
    **arguments: Any,
) -> Outcome:
    """Run an entry of `trainer_entries`, or another `module`, on all ranks of a layout."""
    return launcher.launch(
        Job(
            entry=f"tests.ranks.{module}:{entry}",
            arguments={"scenario": made.model_dump(mode="json"), "layout": layout, "folder": str(folder)} | arguments,
            world_size=made.table(layout).grids().world_size,
            log_dir=folder,
            hang_seconds=60.0,
        )
    )


def run_entry(launcher: Launcher, entry: str, made: Scenario, layout: str, folder: Path, **arguments: Any) -> int:
    """Run an entry that must finish; return the number of ranks."""
    outcome = launch_entry(launcher, entry, made, layout, folder, **arguments)
    assert outcome.ended == "finished", outcome
    return made.table(layout).grids().world_size
