"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """Devices of ranks."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Scenario files.", show_default=False)]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A scenario file.", show_default=False)]
RunDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="What `run` wrote.", show_default=False)]
DeviceOption = Annotated[Device, typer.Option("--device", help="What ranks run on; auto: GPUs if there are any.")]
HangLimit = Annotated[float, typer.Option("--hang-limit", metavar="SECONDS", help="Silence that counts as a hang.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="New directory for what the command writes.", show_default="by time"),
]
ResumeAccount = Annotated[
    bool, typer.Option("--resume", help="Resume the account in --out DIR: what it holds is not run again.")
]
RecordToExtend = Annotated[
    Path | None,
    typer.Option(
        "--record", metavar="DIR", help="Add the results to the record of a run on this machine, and to its page."
    ),
]
