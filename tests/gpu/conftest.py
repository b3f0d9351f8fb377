"""GPU tests say how many GPUs they need, and fail where there are fewer: a skip would look like a pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_bench.launch.inventory import num_places
from mimo_bench.record import RunRecord
from tests.gpu.running import SCENARIO, run


@pytest.fixture(autouse=True)
def _enough_gpus(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("gpu")
    assert marker is not None, "mark the test with the number of GPUs it needs: @pytest.mark.gpu(2)"
    needed = marker.args[0]
    assert num_places() >= needed, f"needs {needed} GPUs, or as many ranks on them; there is room for {num_places()}"


@pytest.fixture(scope="session")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layouts of the tiny model on two ranks."""
    path = tmp_path_factory.mktemp("scenario") / "three.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def measured(scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """They trained on two GPUs, in all modes."""
    folder = tmp_path_factory.mktemp("measured")
    status, record = run(scenario, folder, "--device", "cuda", "--modes", "parity,timing,comm")
    assert status == 0, [(layout.name, layout.reason) for layout in record.layouts]
    return record
