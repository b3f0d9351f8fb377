"""Generated mutants: one collective call of a training step, skipped, made twice, or made on a wrong group.

Planted like any fault, by `module:function:argument`. A *site* is the line that calls torch.distributed; `survey`
writes down every site of a step with the group role that it calls on, and `mutate` breaks one of them in every rank.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from mimo_bench.parity.faults import FaultContext, replace_attribute
from mimo_bench.parity.mutants import Call, Mutant

WATCHED = (
    "all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "_all_gather_base", "reduce_scatter_tensor",
    "_reduce_scatter_base", "send", "recv", "batch_isend_irecv",
)  # fmt: skip

_PEERS = ("src", "dst")


def survey(context: FaultContext, path: str) -> None:
    """Leave every collective call of the training steps in `path`, one file a rank; nothing is changed."""
    calls: set[Call] = set()

    def note(call: Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        calls.add(call)
        return function(*args, **kwargs)

    def leave() -> None:
        found = [call.model_dump() for call in sorted(calls, key=str)]
        Path(path, f"calls{context.rank}.json").write_text(json.dumps(found), encoding="utf-8")

    context.undo.callback(leave)
    _tap(context, note)


def mutate(context: FaultContext, argument: str) -> None:
    """Break the call that `argument`, a `Mutant` as JSON, names, in every rank and every training step."""
    mutant = Mutant.model_validate_json(argument)

    def break_it(call: Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if call != mutant.call:
            return function(*args, **kwargs)
        match mutant.how:
            case "skip":
                return _done(function, kwargs)
            case "double":
                function(*args, **{**kwargs, "async_op": False} if "async_op" in kwargs else kwargs)
                return function(*args, **kwargs)
            case "wrong group":
                return _on_another_group(function, args, kwargs)

    _tap(context, break_it)


_Handler = Callable[[Call, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class _Finished:
    """Stands in for the handle of a call that was never made."""

    def wait(self, *_: Any) -> bool:
        return True

    def is_completed(self) -> bool:
        return True


def _tap(context: FaultContext, handle: _Handler) -> None:
    """Hand every watched call of a training step to `handle`; what probes and evaluation call goes through as it is."""
    trainer = context.trainer
    is_training = [False]

    @contextmanager
    def training(active: bool) -> Iterator[None]:
        is_training[0] = active
        try:
            yield
        finally:
            is_training[0] = False

    schedule, step = trainer.schedule, trainer.optimizer.step

    def watched_schedule(batch: Any, *, forward_only: bool) -> None:
        with training(not forward_only):
            schedule(batch, forward_only=forward_only)

    def watched_step() -> None:
        with training(True):
            step()

    def watch(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not is_training[0]:
            return function(*args, **kwargs)
        return handle(_call(name, args, kwargs), function, args, kwargs)

    replace_attribute(context, trainer, "schedule", watched_schedule)
    replace_attribute(context, trainer.optimizer, "step", watched_step)
    for name in WATCHED:
        original = getattr(dist, name)
        watcher = partial(watch, name, original)
        for module, alias in _aliases(original):
            replace_attribute(context, module, alias, watcher)


def _aliases(function: Any) -> list[tuple[Any, str]]:
    """Every module of ours, of megatron-core and of torch.distributed's surface that holds `function` under a name."""
    return [
        (module, alias)
        for name, module in list(sys.modules.items())
        if name == "torch.distributed" or name.startswith(("megatron.core", "mimo_bench"))
        for alias, value in list(vars(module).items())
        if value is function
    ]


def _call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    group = _group(args, kwargs)
    return Call(
        collective=name, role=group.group_desc if group is not None else "world", site=_site(), size=_size(group)
    )


def _site() -> str:
    """The file, function and line that called torch.distributed."""
    frame: Any = sys._getframe(1)
    while "/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-2:])}:{frame.f_code.co_name}:{frame.f_lineno}"


def _group(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The process group of a call; None for the world's."""
    found = [value for value in (*kwargs.values(), *args) if isinstance(value, dist.ProcessGroup)]
    if not found and args and isinstance(args[0], list) and args[0] and isinstance(args[0][0], dist.P2POp):
        found = [args[0][0].group]
    return next((group for group in found if group is not dist.group.WORLD), None)


def _size(group: Any) -> int:
    return int(dist.get_world_size(group))


def _done(function: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    if function.__name__ == "batch_isend_irecv":
        return []
    return _Finished() if kwargs.get("async_op") else None


def _on_another_group(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mine = _group(args, kwargs)
    ranks = dist.get_process_group_ranks(mine if mine is not None else dist.group.WORLD)
    peers = {kwargs[name] for name in _PEERS if isinstance(kwargs.get(name), int)}
    if (other := _another(ranks, peers)) is None:
        return _done(function, kwargs)
    if mine is None:
        return function(*args, **{**kwargs, "group": other})

    def swapped(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], dist.P2POp):
            return [dist.P2POp(one.op, one.tensor, one.peer, other) for one in value]
        return other if value is mine else value

    return function(*map(swapped, args), **{name: swapped(value) for name, value in kwargs.items()})


def _another(ranks: list[int], peers: set[int]) -> Any:
    """A group of this rank with other members, of several ranks where there is one, that holds all `peers`."""
    groups = [(group, dist.get_process_group_ranks(group)) for group in distributed_c10d._world.pg_map]
    fitting = [
        (len(members) == 1, members, group)
        for group, members in groups
        if members != ranks and dist.get_rank() in members and peers <= set(members)
    ]
    return min(fitting, key=lambda found: found[:2], default=(None, None, None))[2]
