"""Commands on records: report, compare, validate, schema."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mimo_bench.cli.options import RunDirectory
from mimo_bench.record import RunRecord, read_run
from mimo_bench.scenario import Scenario

app = typer.Typer()


class Schema(StrEnum):
    """Formats with a published schema."""

    scenario = "scenario"
    run = "run"


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A run's directory.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another run's directory, of the same scenario.")],
) -> None:
    """Print two runs side by side, with noise; refused with the reasons if they are not comparable."""
    before, after = read_run(old), read_run(new)
    from mimo_bench.report import compare_runs, notes, pair_table

    print(pair_table(compare_runs(before, after)))
    for note in notes(before, after):
        print(f"- {note}")


@app.command()
def report(directory: RunDirectory) -> None:
    """Render the report again from its record."""
    record = read_run(directory)
    from mimo_bench.report import write_report  # pandas; bad input is answered at once

    write_report(directory, record)
    print(f"{directory}: report written")


@app.command()
def validate(directory: RunDirectory) -> None:
    """Check a record against its schema and its own identities."""
    # pyarrow, which `schema` does without.
    from mimo_bench.predict import validate as validate_record

    validate_record(directory)
    print(f"{directory}: the record is valid")


@app.command()
def schema(of: Annotated[Schema, typer.Argument(help="A scenario file, or run.json.")] = Schema.scenario) -> None:
    """Print the JSON Schema of a scenario or of run.json."""
    model = Scenario if of is Schema.scenario else RunRecord
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    print(json.dumps(dialect | model.model_json_schema(), indent=2))
