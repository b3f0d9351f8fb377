"""A full training step on one H200: how much of the device's peak it reaches, as timed against the plain baseline."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_bench.cli import app as cli
from mimo_bench.record.files import read_run

SCENARIO = Path(__file__).parents[2] / "scenarios" / "gpu1_long.toml"
LEAST_MFU = 0.60


@pytest.mark.gpu(1)
def test_a_full_step_reaches_most_of_the_peak(tmp_path: Path) -> None:
    arguments = ["run", str(SCENARIO), "--device", "cuda", "--modes", "timing", "--out", str(tmp_path / "run")]
    assert cli.main(arguments) == 0
    reached = {}
    for layout in read_run(tmp_path / "run").layouts:
        assert layout.timing is not None
        assert layout.timing.mfu is not None, "MFU of this GPU is not known"
        assert layout.parity is not None
        assert layout.parity.as_timed is not None
        reached[layout.name] = layout.timing.mfu
        print(f"{layout.name}: {layout.timing.mfu:.1%} MFU, {layout.timing.step_seconds_median:.3f} s a step")
    assert max(reached.values()) >= LEAST_MFU
