"""What commands cost that start no ranks: `--help` and `check`, of the smoke matrix and of 100,000 layouts.

`nox -s perf`; kept apart from the tests, because times of a busy machine say little about the code.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.perf.processors import cost_of, least_of
from tests.support import synthetic

START_SECONDS, CHECK_SECONDS, NUM_LAYOUTS = 0.3, 30.0, 100_000


@pytest.mark.parametrize("command", [("--help",), ("check", "scenarios/cpu_smoke.toml")], ids=["help", "check"])
def test_starting(command: tuple[str, ...]) -> None:
    cost = least_of(7, "-m", "mimo_bench", *command)
    print(f"\nmimo-bench {' '.join(command)}: {cost.seconds:.2f} s")
    assert cost.seconds < START_SECONDS


@pytest.mark.parametrize("options", [("--quiet",), ()], ids=["quiet", "with rank maps and memory"])
def test_checking_very_many_layouts(options: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "many.toml"
    file.write_text(synthetic.scenario(num_layouts=NUM_LAYOUTS), encoding="utf-8")
    cost = cost_of("-m", "mimo_bench", "check", *options, str(file))
    print(
        f"\ncheck {' '.join(options)} of {NUM_LAYOUTS:,} layouts: {cost.seconds:.1f} s, {cost.peak_bytes / 1e6:.0f} MB"
    )
    assert cost.seconds < CHECK_SECONDS
