"""`mimo-bench overhead` and `linkspeed`: the cost of our instruments, and this machine's links."""

from __future__ import annotations

from typing import Annotated

import typer

from mimo_bench.bench import (
    add_to_record,
    check_fits,
    check_record,
    describe_links,
    describe_overhead,
    device_kind,
    measure_links,
    measure_overhead,
)
from mimo_bench.cli.options import Device, DeviceOption, File, RecordToExtend
from mimo_bench.launch import num_gpus
from mimo_bench.scenario import load_scenario
from mimo_bench.util import UsageError

app = typer.Typer()


@app.command()
def overhead(
    file: File,
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="The layout to measure in.", show_default="the baseline")
    ] = None,
    device: DeviceOption = Device.auto,
    turns: Annotated[int, typer.Option(min=2, help="Turns of bare, instrumented, instrumented, bare.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps between two changes.")] = 5,
    record: RecordToExtend = None,
) -> None:
    """Measure what the instruments of each mode cost, against bare steps in turns."""
    scenario = load_scenario(file, with_fingerprint=record is not None)
    name = scenario.baseline if layout is None else scenario.table(layout).name
    kind = device_kind(device.value)
    check_fits(scenario, file, (name,), device_kind=kind, ranks_share=False)
    if record is not None:
        check_record(record, device_kind=kind, scenario=scenario)
    found = measure_overhead(scenario, name, device_kind=kind, num_turns=turns, num_steps=steps)
    print("\n".join(map(describe_overhead, found)))
    if record is not None:
        add_to_record(record, overhead={each.mode: each.share for each in found})


@app.command()
def linkspeed(
    ranks: Annotated[
        int | None, typer.Option(min=2, help="Number of ranks.", show_default="all GPUs, or 2 CPU ranks")
    ] = None,
    device: DeviceOption = Device.auto,
    record: RecordToExtend = None,
) -> None:
    """Measure this machine's bandwidth between ranks, by collective and size."""
    kind = device_kind(device.value)
    available = num_gpus() if kind == "cuda" else None
    num_ranks = ranks if ranks is not None else (available or 2)
    if available is not None and not 2 <= num_ranks <= available:
        raise UsageError(f"--ranks: {num_ranks} ranks and {available} GPUs; it takes 2 or more, each with a GPU")
    known = check_record(record, device_kind=kind).links if record is not None else ()
    found = measure_links(num_ranks=num_ranks, device_kind=kind)
    print("\n".join(describe_links(found)))
    if record is not None:
        # Groups of another size are measured by another call.
        add_to_record(record, links=(*(link for link in known if link.num_ranks != num_ranks), *found))
