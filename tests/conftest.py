"""What tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mimo_bench.launch import Launcher


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Ranks on the CPU over gloo; torch and megatron-core are imported once for the whole session."""
    with Launcher(device_kind="cpu") as launcher:
        yield launcher
