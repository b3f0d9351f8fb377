"""GPU tests say how many GPUs they need, and fail where there are fewer: a skip would look like a pass."""

from __future__ import annotations

import pytest

from mimo_bench.devices import num_gpus


@pytest.fixture(autouse=True)
def _enough_gpus(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("gpu")
    assert marker is not None, "mark the test with the number of GPUs it needs: @pytest.mark.gpu(2)"
    needed = marker.args[0]
    assert num_gpus() >= needed, f"needs {needed} GPUs, {num_gpus()} are visible"
