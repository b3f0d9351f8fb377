"""GPUs train what `transformers` says ought to be trained: logits, loss, gradients and three AdamW steps, in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mimo_bench.launch import Launcher
from mimo_bench.layout.settings import Settings
from mimo_bench.layout.tables import GridTable, LayoutTable
from tests.support import oracle
from tests.support.checkpoints import CONFIGS
from tests.support.oracle_job import NUM_STEPS, run_layout, samples_of, scenario_of

FAMILY = "clip_llama"

LAYOUTS = (
    LayoutTable(name="one", vision=GridTable(), language=GridTable()),
    LayoutTable(
        name="fan-in",
        vision=GridTable(dp=2),
        language=GridTable(tp=2),
        settings=Settings(sequence_parallel=True),
    ),
    LayoutTable(name="fan-out", vision=GridTable(tp=2), language=GridTable(dp=2)),
    LayoutTable(name="apart", vision=GridTable(), language=GridTable(rank_offset=1)),
)

BOUND = 1e-5
"""On the relative error of logits, loss and each parameter's gradient: what CPU ranks are held to."""
UPDATE_BOUND = 1e-4
"""On the relative error of each parameter's update."""


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """Ranks on GPUs."""
    with Launcher(device_kind="cuda") as launcher:
        yield launcher


@pytest.mark.gpu(2)
def test_every_layout_of_two_gpus_gets_what_transformers_gets(launcher: Launcher, tmp_path: Path) -> None:
    scenario = scenario_of(FAMILY, LAYOUTS)
    runs = {}
    for name in scenario.names:
        (tmp_path / name).mkdir()
        runs[name] = run_layout(launcher, scenario, name, tmp_path / name, device_kind="cuda")
    # Weights are drawn alike on every device, and the referee computes in float64 on the host.
    weights = runs["one"].weights
    batches = [samples_of(scenario, step) for step in range(NUM_STEPS)]
    referee = oracle.run_referee(oracle.build_referee(CONFIGS / f"{FAMILY}.json", weights), batches[0])
    trained = oracle.train_referee(
        oracle.build_referee(CONFIGS / f"{FAMILY}.json", weights), weights, batches, scenario.training
    )
    for name, run in runs.items():
        assert oracle.deviation(run.result, referee).largest <= BOUND, name
        assert run.losses == pytest.approx(trained.losses, rel=BOUND), name
        errors = oracle.update_errors(run.updates, trained, uncompared=oracle.zero_gradients(referee))
        assert max(errors.values()) <= UPDATE_BOUND, (name, max(errors.items(), key=lambda item: item[1]))
