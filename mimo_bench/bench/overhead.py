"""Cost of our own instruments: paired blocks of bare and instrumented steps, and the share with its confidence.

The answer is printed, one line a mode.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from mimo_bench.bench.request import HANG_SECONDS, OverheadRequest
from mimo_bench.launch import DeviceKind, Job, Launcher
from mimo_bench.record import Mode
from mimo_bench.scenario import Scenario

ENTRY = "mimo_bench.bench.ranks.overhead:main"
MODES: tuple[Mode, ...] = ("timing", "comm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Overhead:
    """Time that one mode's instruments add to a step."""

    mode: Mode
    share: float
    """Of the bare step; mean over the turns."""
    low: float
    high: float
    """Bounds of the 95 % confidence interval."""
    bare_seconds: float
    """Of a step."""


def overhead_of(mode: Mode, turns: Sequence[Sequence[float]], *, num_steps: int) -> Overhead:
    """The overhead that turns of four blocks show: bare, instrumented, instrumented, bare; seconds each.

    The interval is Student's, over the turns.
    """
    # Only now: it costs half a second.
    from scipy.special import stdtrit

    shares = [(second + third) / (first + last) - 1 for first, second, third, last in turns]
    bare = mean(block for turn in turns for block in (turn[0], turn[3])) / num_steps
    centre = mean(shares)
    width = (
        float(stdtrit(len(shares) - 1, 0.975)) * stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else math.inf
    )
    return Overhead(mode=mode, share=centre, low=centre - width, high=centre + width, bare_seconds=bare)


def measure_overhead(
    scenario: Scenario, layout: str, *, device_kind: DeviceKind, num_turns: int, num_steps: int
) -> list[Overhead]:
    """Measure every mode's overhead in the layout called `layout`.

    Raises:
        LaunchError: the ranks did not come to an end.
    """
    found = []
    weights = scenario.weights_directory
    with tempfile.TemporaryDirectory() as folder, Launcher(device_kind=device_kind) as launcher:
        for mode in MODES:
            request = OverheadRequest(
                scenario=scenario,
                weights=None if weights is None else Path(weights),
                layout=layout,
                mode=mode,
                device_kind=device_kind,
                directory=Path(folder) / mode,
                num_turns=num_turns,
                num_steps=num_steps,
            )
            job = Job(
                entry=ENTRY,
                arguments=request.arguments(),
                world_size=scenario.case(layout).world_size,
                log_dir=request.directory,
                hang_seconds=HANG_SECONDS,
                environment={"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if device_kind == "cuda" else {},
            )
            launcher.run(job)
            turns = json.loads((request.directory / "overhead.json").read_text(encoding="utf-8"))
            found.append(overhead_of(mode, turns, num_steps=num_steps))
    return found


def describe_overhead(overhead: Overhead) -> str:
    """One line of text."""
    return (
        f"{overhead.mode}: {overhead.share:+.2%} of a step of {overhead.bare_seconds * 1e3:.1f} ms "
        f"(95 %: {overhead.low:+.2%} to {overhead.high:+.2%})"
    )
