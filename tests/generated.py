"""Reference pages made from the code: `nox -s docs` writes them, `tests/test_generated.py` compares them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import typer.cli
from pydantic import BaseModel

from mimo_bench.cli.app import app
from mimo_bench.data import DigitsData, HuggingFaceData, SyntheticData
from mimo_bench.layout import GridTable, LayoutTable, Settings
from mimo_bench.report.frames import COLUMNS
from mimo_bench.scenario import Evaluation, LoaderTable, Scenario, Steps, Training
from mimo_bench.trainer.megatron import REPLACED

DOCS = Path(__file__).parents[1] / "docs"
NOTE = "<!-- Made from the code by `nox -s docs`; do not edit. -->\n\n"

TABLES: dict[str, type[BaseModel]] = {
    "top of the file": Scenario,
    "[steps]": Steps,
    "[training]": Training,
    "[evaluation]": Evaluation,
    "[loader]": LoaderTable,
    '[data], provider = "synthetic"': SyntheticData,
    '[data], provider = "digits"': DigitsData,
    '[data], provider = "huggingface"': HuggingFaceData,
    "[[layout]]": LayoutTable,
    "a grid, such as vision = { ... }": GridTable,
    "settings = { ... }": Settings,
}


COMMAND_LINE_HEAD = """# Command line

Which commands and options are there? [runs.md](runs.md) explains exit statuses and resuming.

"""

SETTINGS_HEAD = """# Keys of a scenario

Which keys does a scenario file take? `mimo-bench schema scenario` prints them as JSON Schema;
[scenarios.md](scenarios.md) explains them with examples.

"""

TABLES_HEAD = """# A run as tables

How do I read a run in a notebook?

```python
import mimo_bench

run = mimo_bench.load_run("reports/local/one")
run.layouts.sort_values("tokens_per_second_per_gpu", ascending=False)
run.steps.query("mode == 'timing'").groupby(["layout", "step"]).step_seconds.max()
```

One row an observation, one column a variable. Names are those of `run.json` and carry their units. An unknown value is
missing. `run.record` is the whole record.

"""

MEGATRON_HEAD = """# Replaced parts of megatron-core

Which parts of megatron-core run our code instead, and when can each replacement go? After an upgrade, try to delete a
row and its code:

```bash
python -m pytest tests/trainer/test_replaced.py tests/ranks/test_step.py tests/ranks/test_uneven.py
```

A replacement has a row in `mimo_bench/trainer/megatron/__init__.py`; the first of these tests fails without one. Parts
that megatron-core takes by specification or configuration are not replaced and have no row. Layouts and settings that
it cannot train are functions in `mimo_bench/layout/limits.py`, one a limit.

"""


def pages() -> dict[Path, str]:
    """Return the text of every generated page by its path."""
    return {
        DOCS / "cli.md": "".join(_command_line()),
        DOCS / "settings.md": "".join(_settings()),
        DOCS / "tables.md": "".join(_columns()),
        DOCS / "contributing" / "megatron.md": "".join(_replacements()),
    }


def _command_line() -> Iterator[str]:
    command = typer.main.get_command(app)
    text = typer.cli.get_docs_for_click(obj=command, ctx=typer.Context(command), name="mimo-bench")
    yield COMMAND_LINE_HEAD + NOTE
    yield text.partition("\n")[2].strip() + "\n"


def _settings() -> Iterator[str]:
    yield SETTINGS_HEAD + NOTE.rstrip("\n") + "\n"
    for title, model in TABLES.items():
        yield f"\n## {title}\n\n| key | default | meaning |\n| --- | --- | --- |\n"
        schema = model.model_json_schema()
        for name, key in schema["properties"].items():
            default = _default(key, name in schema.get("required", ()))
            yield f"| `{name}` | {default} | {_cell(key.get('description', ''))} |\n"


def _default(key: dict[str, Any], is_required: bool) -> str:
    if is_required:
        return "required"
    default = key.get("default")
    # Tables by themselves have a section each.
    return "" if default is None or isinstance(default, dict) else f"`{json.dumps(default)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _columns() -> Iterator[str]:
    yield TABLES_HEAD + NOTE.rstrip("\n") + "\n"
    for table, columns in COLUMNS.items():
        yield f"\n## {table}\n\n| column | holds |\n|---|---|\n"
        yield from (f"| `{column}` | {_cell(holds)} |\n" for column, holds in columns.items())


def _replacements() -> Iterator[str]:
    yield MEGATRON_HEAD + NOTE
    yield "| part | replaced by | why | since | can go when |\n|---|---|---|---|---|\n"
    for row in REPLACED:
        since = row.since if row.since.startswith("torch") else f"megatron-core {row.since}"
        by = row.by.removeprefix("mimo_bench.")
        yield f"| `{row.of}` | `{by}` | {_cell(row.why)} | {since} | {_cell(row.until)} |\n"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path)
