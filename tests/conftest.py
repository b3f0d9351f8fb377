"""What tests share."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from mimo_bench.launch import Launcher

WORKER = "mimo_bench.worker"


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Ranks on the CPU over gloo; torch and megatron-core are imported once for the whole session."""
    preload = (WORKER,) if find_spec(WORKER) else ("torch", "torch.distributed")
    with Launcher(device_kind="cpu", preload=preload) as launcher:
        yield launcher
