"""`mimo-bench import` and `export`: weights from and to `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mimo_bench.models import Converted, export_weights, import_weights

app = typer.Typer()


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="HF_DIR", help="What save_pretrained of `transformers` wrote.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New directory of weights.")],
) -> None:
    """Make a directory of weights of a LLaVA or a Voxtral of `transformers`: config.json and safetensors."""
    converted = import_weights(source, target)
    print(f"{target}: {_summary(converted)}; set model and weights of a scenario to it")


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A directory of weights, or a checkpoint.")],
    target: Annotated[Path, typer.Argument(metavar="HF_DIR", help="New directory for `transformers`.")],
) -> None:
    """Write a directory of weights as a checkpoint that from_pretrained of `transformers` loads."""
    converted = export_weights(source, target)
    print(f"{target}: {_summary(converted)}; from_pretrained of `transformers` loads it")
    print(*converted.remarks, sep="\n", end="\n" if converted.remarks else "")


def _summary(converted: Converted) -> str:
    aside = f", {converted.num_aside} more of layers that are not built" if converted.num_aside else ""
    return f"{converted.num_tensors} tensors{aside}, {converted.num_bytes / 1e9:.3g} GB"
