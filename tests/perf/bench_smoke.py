"""What the CPU smoke matrix costs: all processes of `mimo-bench run scenarios/cpu_smoke.toml`, set-up included.

`nox -s perf`; two cores have 180 s of processor time in the 90 s that the matrix may take.
"""

from __future__ import annotations

from pathlib import Path

from mimo_bench.record.files import read_run
from tests.perf.processors import cost_of

MOST_SECONDS = 180.0


def test_the_smoke_matrix(tmp_path: Path) -> None:
    out = tmp_path / "run"
    cost = cost_of("-m", "mimo_bench", "run", "scenarios/cpu_smoke.toml", "--device", "cpu", "--out", str(out))
    record = read_run(out)
    launches = [launch for layout in record.layouts for launch in layout.launches]
    phases: dict[str, float] = {}
    for launch in launches:
        spent = {"start": launch.start_seconds, **launch.phases, "first step": launch.first_step_seconds or 0.0}
        for name, seconds in spent.items():
            phases[name] = phases.get(name, 0.0) + seconds
    assert record.finished_at is not None
    wall = (record.finished_at - record.started_at).total_seconds()
    print(f"\nsmoke matrix: {cost.seconds:.1f} s of processors, {wall:.1f} s on the wall, {len(launches)} launches:")
    print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in phases.items()))
    assert cost.seconds < MOST_SECONDS
