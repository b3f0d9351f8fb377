"""The command line: one file a command, imported when the command is called.

Exit status: 0 all well; 2 bad input, nothing started or written; 3 a layout ended without a record; 1 a layout failed
parity, or does not fit `check --device-memory`; 4 a layout became slower, under --gate-performance; 70 a bug of
mimo-bench, or a file or disk that failed; 130 interrupted; 143, 129, 138 and 140 stopped by SIGTERM, SIGHUP, SIGUSR1
and SIGUSR2. If several apply, the first in that order.
"""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core

from mimo_bench import __version__
from mimo_bench.cli.exits import BAD_INPUT, BUG, SIGNALLED, Stopped, stopped_by
from mimo_bench.cli.streams import lasting_output
from mimo_bench.util import MimoBenchError

COMMANDS = {
    "check": ("check", "Validate scenarios and print which rank holds what, and the memory it needs."),
    "run": ("run", "Train every layout, judge each against the baseline, write the record and the report."),
    "selftest": ("gate", "Plant every known fault; each must be caught by its check, and the clean runs must pass."),
    "alarms": ("gate", "Judge clean layouts over many seeds, and count those that fail."),
    "mutants": ("gate", "Break every collective call of a training step, and count what the gate catches."),
    "train": ("train", "Train in one layout, without the bench; save weights and checkpoints."),
    "compare": ("records", "Print two runs side by side, with noise."),
    "history": ("history", "Keep runs and read what they did from night to night."),
    "overhead": ("measure", "Measure what the instruments of each mode cost."),
    "linkspeed": ("measure", "Measure this machine's bandwidth between ranks."),
    "import": ("weights", "Convert a checkpoint of `transformers` to a directory of weights."),
    "export": ("weights", "Convert a directory of weights to a checkpoint of `transformers`."),
    "report": ("records", "Render the report again from its record."),
    "validate": ("records", "Check a record against its schema and its own identities."),
    "schema": ("records", "Print the JSON Schema of a scenario or of run.json."),
}
"""Command -> its module in this folder, and a line of help; listing them imports none of the modules."""

RARER = {"alarms", "mutants", "overhead", "linkspeed", "report", "validate", "schema"}
"""Commands that the help lists apart."""


class Commands(typer.core.TyperGroup):
    """Commands whose modules are imported when they are called: pydantic and pandas would cost `--help` a second."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command called `cmd_name`; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"mimo_bench.cli.{COMMANDS[cmd_name][0]}")
        return typer.main.get_group(module.app).commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table of commands."""
        for title, names in (("Commands", COMMANDS.keys() - RARER), ("Rarer commands", RARER)):
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items() if name in names])


app = typer.Typer(
    cls=Commands,
    name="mimo-bench",
    help="Does every layout of a multimodal model train the same model, and which one is fastest?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (or the process's own) spell, and return its exit status."""
    with lasting_output() as output:
        status = _run(arguments)
    is_lost = output.error is not None and output.error.errno != errno.EPIPE
    return BUG if status == 0 and is_lost else status


def _run(arguments: Sequence[str] | None) -> int:
    try:
        with stopped_by(signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            app(args=arguments, prog_name="mimo-bench", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except MimoBenchError as error:
        print(f"mimo-bench: {error}", file=sys.stderr)
        return BAD_INPUT
    except Stopped as stop:
        print(f"mimo-bench: stopped by {stop.signal.name}", file=sys.stderr)
        return SIGNALLED + stop.signal
    except KeyboardInterrupt:
        print("mimo-bench: interrupted", file=sys.stderr)
        return SIGNALLED + signal.SIGINT
    except OSError as error:
        print(f"mimo-bench: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return BUG
    except Exception:
        traceback.print_exc()
        return BUG
    return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mimo-bench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
