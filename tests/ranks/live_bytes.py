"""Counts the bytes of the tensors that are alive, where no device counts them: on CPU ranks."""

from __future__ import annotations

import time
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_MOMENTS = 10
"""Milliseconds within which a thread of gloo lets go of what a call was given."""


class LiveBytes(TorchDispatchMode):
    """Bytes of tensors made in its context that are still held, and their peak; older tensors do not count."""

    def __init__(self, limit: int = 0) -> None:
        """Nothing is held; what is more than `limit` must be so for some time to count."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = limit
        self._holders: dict[int, int] = {}
        self._now = self.peak = 0

    def settle(self, *, limit: int) -> None:
        """Wait until nothing is held, and count the peak from here."""
        while self._now:
            time.sleep(1e-3)
        self.peak, self.limit = 0, limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        older = {_place(one) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        made = func(*args, **kwargs or {})
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor) and (_place(one) in self._holders or _place(one) not in older):
                self._hold(one)
        return made

    def _hold(self, tensor: torch.Tensor) -> None:
        place, num_bytes = _place(tensor), tensor.untyped_storage().nbytes()
        if place not in self._holders:
            self._now += num_bytes
        self._holders[place] = self._holders.get(place, 0) + 1
        weakref.finalize(tensor, self._release, place, num_bytes)
        for _ in range(_MOMENTS):
            if self._now <= max(self.limit, self.peak):
                break
            time.sleep(1e-3)
        self.peak = max(self.peak, self._now)

    def _release(self, place: int, num_bytes: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            del self._holders[place]
            self._now -= num_bytes


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
