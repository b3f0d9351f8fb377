"""When CPU ranks compute: every operator that torch dispatches, by the wall clock, labelled with its module.

An operator's time is its own; Python between two operators is idleness, as a gap between two kernels is on a GPU.
Costs some microseconds an operator, so it belongs to comm mode.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from mimo_bench.meters.communication.intervals import Interval


class ComputeSpans(TorchDispatchMode):
    """While entered, keeps when operators ran in this thread; autograd runs backward passes of CPU tensors in it."""

    def __init__(self, module: Callable[[], str | None]) -> None:
        """Start empty; `module` says whose operators run at the moment."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._module = module
        self.spans: dict[str | None, list[Interval]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and keep when; what talks to other ranks is no computation."""
        if func.namespace == "c10d":
            return func(*args, **(kwargs or {}))
        begin = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        self.spans[self._module()].append((begin, time.perf_counter()))
        return result
