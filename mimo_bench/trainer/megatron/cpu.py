"""CPU ranks: CUDA assumptions of megatron-core redirected from outside; no file of it is patched.

Installed once per process, only on ranks without a GPU. Five things assume CUDA in megatron-core 0.19:
factory calls and moves with `device="cuda"` or a device index, the functions of `torch.cuda`, process groups with
`backend="nccl"`, type names such as `torch.cuda.FloatTensor`, and token counts that become numbers only by
a copy from a GPU.

One redirection is for speed: gloo gives every group a thread that wakes a hundred times a second.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.utils._device import _device_constructors

_installed = False

_LIKE = ("empty_like", "full_like", "ones_like", "rand_like", "randint_like", "randn_like", "zeros_like")
"""Functions of torch that take a tensor and a device."""
_NEW = ("new_empty", "new_empty_strided", "new_full", "new_ones", "new_tensor", "new_zeros")
"""Methods of tensors that take one."""


def install() -> None:
    """Redirect this process for good; a second call does nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    # megatron-core compiles small functions; on the host that takes minutes and gains nothing.
    torch._dynamo.config.disable = True
    _redirect_torch_cuda()
    _redirect_process_groups()
    _share_one_network_thread()
    _redirect_rng_state()
    _redirect_token_counts()
    _redirect_tensors()


def _is_cuda(device: Any) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, int) or (isinstance(device, str) and device.startswith("cuda"))


def _redirect_tensors() -> None:
    """Everything that names a CUDA device gets the CPU.

    Each function is replaced by itself: a TorchFunctionMode would see every operation and costs an
    eighth of the training's time.
    """
    # All that `with torch.device(...)` looks out for. torch lists it once, so that stays true after the replacements.
    makers = [name for function in _device_constructors() if hasattr(torch, name := function.__name__)]
    for name in (*makers, *_LIKE):
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    for name in _NEW:
        setattr(torch.Tensor, name, _on_cpu(getattr(torch.Tensor, name)))
    move, name_type = torch.Tensor.to, torch.Tensor.type

    def to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args and not isinstance(args[0], bool) and _is_cuda(args[0]):
            args = (torch.device("cpu"), *args[1:])
        return move(tensor, *args, **_without_cuda(kwargs))

    def type_(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # The optimizers tell precisions apart by CUDA type names.
        named: Any = name_type(tensor, *args, **kwargs)
        return named if args or kwargs else named.replace("torch.", "torch.cuda.", 1)

    def cuda(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return tensor

    for name, replacement in {"to": to, "type": type_, "cuda": cuda}.items():
        setattr(torch.Tensor, name, replacement)


def _on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **_without_cuda(kwargs))

    return call


def _without_cuda(kwargs: dict[str, Any]) -> dict[str, Any]:
    if (device := kwargs.get("device")) is not None and _is_cuda(device):
        kwargs["device"] = torch.device("cpu")
    return kwargs


class _Stream:
    """Stream of a device that has a single order of events."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, *_: Any) -> None: ...

    def wait_event(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...

    def record_event(self, event: _Event | None = None) -> _Event:
        return event or _Event()


class _Event:
    """Event that has already happened."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def wait(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


@contextlib.contextmanager
def _stream_context(_: Any = None) -> Iterator[None]:
    yield


def _nothing(*_: Any, **__: Any) -> None: ...


def _redirect_torch_cuda() -> None:
    stream = _Stream()
    replacements: dict[str, Any] = {
        "current_device": lambda: torch.device("cpu"),
        "set_device": _nothing,
        "synchronize": _nothing,
        "empty_cache": _nothing,
        "current_stream": lambda *_: stream,
        "default_stream": lambda *_: stream,
        "stream": _stream_context,
        "Stream": _Stream,
        "Event": _Event,
        "get_rng_state": lambda *_, **__: torch.get_rng_state(),
        "set_rng_state": lambda state, *_, **__: torch.set_rng_state(state),
    }
    for name, replacement in replacements.items():
        setattr(torch.cuda, name, replacement)


def _redirect_process_groups() -> None:
    def on_gloo(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("backend") == "nccl":
                kwargs["backend"] = "gloo"
            return function(*args, **kwargs)

        return call

    for name in ("new_group", "new_subgroups_by_enumeration"):
        setattr(dist, name, on_gloo(getattr(dist, name)))


def _share_one_network_thread() -> None:
    """All of this process's gloo groups talk through one device, instead of each through one of its own.

    A group's device is a thread that looks every 10 ms whether it has to end: with eight ranks of thirty groups that
    is a quarter of a core.
    """
    gloo: Any = distributed_c10d.ProcessGroupGloo  # its options are missing from torch's stubs
    device = gloo.create_default_device()

    class OnOneDevice(gloo):
        def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
            options = gloo._Options()
            options._devices = [device]
            options._timeout = timeout
            super().__init__(store, rank, size, options)

    # torch's own `new_group` and `init_process_group` make groups by this name and take no options for gloo.
    distributed_c10d.ProcessGroupGloo = OnOneDevice  # type: ignore[misc]


def _redirect_rng_state() -> None:
    """Activation recomputation saves and restores the CUDA generator; here that is the CPU's."""
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _redirect_token_counts() -> None:
    """Turn token counts of experts into numbers without a copy from a GPU."""
    from megatron.core.transformer.moe import token_dispatcher

    def on_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = on_host
