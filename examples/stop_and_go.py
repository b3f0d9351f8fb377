"""Every layout of a scenario trains, stops half-way, and goes on from its checkpoint: do all come out alike?

python examples/stop_and_go.py FILE OUT --steps 20
python examples/stop_and_go.py FILE OUT --steps 20 --nodes 2   # as two machines would: one torchrun for each

OUT/stop_and_go.md says how far every layout's losses are from the first one's, and how long saving and going on took;
--layout picks some, and a later call with the same OUT adds others to it.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from mimo_bench.scenario import Scenario, load_scenario

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
"""How far two layouts' losses may be apart, relatively; rounding of bf16 weights drifts in the course of a training."""
FOUND = "found.json"
HEADER = (
    "| layout | ranks | loss | furthest from the first | step | model built | gone on after | saved in | peak memory |"
)


def train(scenario: Scenario, layout: str, *, num_steps: int, checkpoints: Path, told: Path) -> None:
    """Work of each rank: take the steps that are left, save, and let the first rank leave what it saw."""
    import torch

    from mimo_bench.trainer import Logging, Pretraining, Saving, join, set_up
    from mimo_bench.trainer import train as take_steps

    run = Pretraining.of(
        scenario,
        layout,
        num_steps=num_steps,
        saving=Saving(directory=checkpoints, keep_last=1),
        logging=Logging(directory=told.parent, module_grad_norms=True),
    )
    device = join("auto")
    began = time.perf_counter()
    trainer = set_up(run, layout=scenario.table(layout).grids(), data=scenario.data, device=device)
    built = time.perf_counter()
    steps: list[tuple[float, float]] = []  # when each ended, and how long it took
    take_steps(
        trainer, run, data=scenario.data, on_step=lambda _, __, seconds: steps.append((time.perf_counter(), seconds))
    )
    ended = time.perf_counter()
    peak = torch.zeros((), device=device.torch_device)
    if device.kind == "cuda":
        peak += torch.cuda.max_memory_allocated()
    torch.distributed.all_reduce(peak, torch.distributed.ReduceOp.MAX)
    if torch.distributed.get_rank() == 0:
        found = {
            "built_seconds": built - began,
            "resumed_seconds": steps[0][0] - steps[0][1] - built,
            "saved_seconds": ended - steps[-1][0],
            "step_seconds": [seconds for _, seconds in steps],
            "peak_bytes": int(peak) or None,
        }
        told.write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def run_ranks(asked: argparse.Namespace, layout: str, *, num_ranks: int, num_steps: int, folder: Path) -> None:
    """Start one torchrun for each node and wait for all; a node may hold one rank more than another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meet = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    agents = []
    for node in range(asked.nodes):
        share = num_ranks // asked.nodes + (node < num_ranks % asked.nodes)
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nnodes={asked.nodes}",
            f"--nproc-per-node={share}",
        ]
        torchrun += [f"--rdzv-id={meet}", "--rdzv-backend=c10d", f"--rdzv-endpoint={meet}", "--local-addr=127.0.0.1"]
        own = [__file__, str(asked.file), str(asked.out), "--steps", str(num_steps), "--layout", layout]
        own += ["--checkpoints", str(asked.checkpoints)]
        with (folder / f"node{node}-{num_steps}.log").open("w") as log:
            agents.append(subprocess.Popen([*torchrun, *own], stdout=log, stderr=log, env=environment))
    try:
        failed = [node for node, agent in enumerate(agents) if agent.wait()]
    finally:
        for agent in agents:
            agent.terminate()  # nothing where it has ended
    if failed:
        sys.exit(f"{layout}: a rank failed; see {folder}/node{failed[0]}-{num_steps}.log")


def stop_and_go(asked: argparse.Namespace, scenario: Scenario, layout: str) -> None:
    """One layout in two halves; leaves what is known of it then."""
    folder = asked.out / layout
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    num_ranks = scenario.table(layout).grids().world_size
    for num_steps in (asked.steps // 2, asked.steps):
        run_ranks(asked, layout, num_ranks=num_ranks, num_steps=num_steps, folder=folder)
    shutil.rmtree(asked.checkpoints / layout)  # the next layout's needs the room
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first, second = (json.loads((folder / f"{steps}.json").read_text()) for steps in (asked.steps // 2, asked.steps))
    peaks = [half["peak_bytes"] for half in (first, second) if half["peak_bytes"]]
    found = {
        "layout": layout,
        "num_ranks": num_ranks,
        "losses": [line["loss"] for line in lines if "loss" in line],
        "step_seconds": median([*first["step_seconds"], *second["step_seconds"]]),
        "peak_bytes": max(peaks, default=None),
        "built_seconds": first["built_seconds"],
        "resumed_seconds": second["resumed_seconds"],
        "saved_seconds": max(first["saved_seconds"], second["saved_seconds"]),
    }
    (folder / FOUND).write_text(json.dumps(found))


def report(asked: argparse.Namespace, scenario: Scenario) -> bool:
    """Write what was found, by this call and those before it; whether all layouts came out alike."""
    places = [asked.out / layout / FOUND for layout in scenario.names]
    found: list[dict[str, Any]] = [json.loads(place.read_text()) for place in places if place.exists()]
    rows, worst = [HEADER, "|" + " --- |" * HEADER.count(" | ") + " --- |"], 0.0
    for each in found:
        pairs = zip(each["losses"], found[0]["losses"], strict=True)
        furthest = max(abs(loss - first) / first for loss, first in pairs)
        worst = max(worst, furthest)
        peak = "-" if each["peak_bytes"] is None else f"{each['peak_bytes'] / 2**30:.1f} GiB"
        seconds = (
            f"{each[name]:.3g} s" for name in ("step_seconds", "built_seconds", "resumed_seconds", "saved_seconds")
        )
        losses = f"{each['losses'][0]:.6f} to {each['losses'][-1]:.6f}"
        rows.append(
            f"| {' | '.join([each['layout'], str(each['num_ranks']), losses, f'{furthest:.1e}', *seconds, peak])} |"
        )
    is_alike = worst <= (tolerance := TOLERANCE[scenario.precision])
    said = f"{scenario.question}\n\n{scenario.model}, {scenario.precision}, {asked.steps} steps in two processes on "
    said += (
        f"{asked.nodes} node(s). {'All layouts agree' if is_alike else 'NOT ALL LAYOUTS AGREE'}: losses are at most "
    )
    said += f"{worst:.1e} apart, relatively; {tolerance:.0e} is allowed.\n\n" + "\n".join(rows) + "\n"
    (asked.out / "stop_and_go.md").write_text(said)
    (asked.out / "stop_and_go.json").write_text(json.dumps(found, indent=2) + "\n")
    print(said)
    return is_alike


def main() -> None:
    """Drive all layouts; under torchrun, be a rank of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, required=True, help="from the very first, at least 2")
    parser.add_argument("--layout", action="append", help="leave it out for all that have a rank for every node")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--checkpoints", type=Path, help="where they lie meanwhile; OUT if it is left out")
    asked = parser.parse_args()
    asked.checkpoints = asked.checkpoints or asked.out / "checkpoints"
    scenario = load_scenario(asked.file)
    if "RANK" in os.environ:
        (layout,) = asked.layout
        told = asked.out / layout / f"{asked.steps}.json"
        train(scenario, layout, num_steps=asked.steps, checkpoints=asked.checkpoints / layout, told=told)
        return
    named = asked.layout or [name for name in scenario.names if scenario.table(name).grids().world_size >= asked.nodes]
    for layout in named:
        stop_and_go(asked, scenario, layout)
    sys.exit(not report(asked, scenario))


if __name__ == "__main__":
    main()
