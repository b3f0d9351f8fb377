"""Mutants: one collective call of a training step is skipped, made twice, or made on a wrong group.

They are planted like any fault, as `module:function:argument`. A *site* is the line that calls torch.distributed.
`survey` lists every site of a step with the role of its groups, and `mutate` breaks one of them on every rank.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from mimo_bench.parity.faults.context import FaultContext, replace_attribute
from mimo_bench.record import Call, Mutant
from mimo_bench.util import METHODS

WATCHED = (
    "all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "_all_gather_base", "reduce_scatter_tensor",
    "_reduce_scatter_base", "all_to_all_single", "send", "recv", "batch_isend_irecv",
)  # fmt: skip

_COPIES = ("broadcast", "all_gather", "all_gather_into_tensor", "_all_gather_base")

_MESSAGES = ("send", "recv", "batch_isend_irecv")

_PEERS = ("src", "dst")


def survey(context: FaultContext, path: str) -> None:
    """List every collective call of the training steps in `path`, one file a rank; change nothing."""
    calls: set[Call] = set()
    is_noted = [False]

    def note(call: Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        calls.add(call)
        is_noted[0] = True
        try:
            return function(*args, **kwargs)
        finally:
            is_noted[0] = False

    def leave() -> None:
        found = [call.model_dump() for call in sorted(calls, key=str)]
        Path(path, f"calls{context.rank}.json").write_text(json.dumps(found), encoding="utf-8")

    context.undo.callback(leave)
    is_training = _tap(context, note)
    _refuse_others(context, lambda: is_training[0] and not is_noted[0])


def mutate(context: FaultContext, argument: str) -> None:
    """Break one call on every rank, in every training step; `argument` is a `Mutant` as JSON."""
    mutant = Mutant.model_validate_json(argument)

    def break_it(call: Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if call != mutant.call:
            return function(*args, **kwargs)
        match mutant.how:
            case "skip":
                return _done(function, kwargs)
            case "double":
                with _at_once(args, kwargs):
                    function(*args, **{**kwargs, "async_op": False} if "async_op" in kwargs else kwargs)
                return function(*args, **kwargs)
            case "wrong group":
                return _on_another_group(function, args, kwargs)

    _tap(context, break_it)


_Handler = Callable[[Call, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class _Finished:
    """Handle of a call that was never made."""

    def wait(self, *_: Any) -> bool:
        return True

    def is_completed(self) -> bool:
        return True


def _tap(context: FaultContext, handle: _Handler) -> list[bool]:
    """Pass every watched call of a training step to `handle`; calls of probes and evaluation stay as they are.

    Returns:
        A list with one element: True during a training step.
    """
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
    return is_training


def _refuse_others(context: FaultContext, is_other: Callable[[], bool]) -> None:
    """Refuse a call that reaches a process group unwatched, while `is_other` is True: its mutants would be missing."""

    def refusing(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            assert not is_other(), f"{_site()} reaches {name} of a process group by none of {', '.join(WATCHED)}"
            return original(*args, **kwargs)

        return call

    # Coalesced calls were watched one by one.
    for name in (name for name in METHODS if not name.endswith("coalesced")):
        original = getattr(dist.ProcessGroup, name)
        replace_attribute(context, dist.ProcessGroup, name, refusing(original, name))


def _aliases(function: Any) -> list[tuple[Any, str]]:
    """Return the modules of this package, megatron-core and torch.distributed that have `function` under a name."""
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
        collective=name,
        role=group.group_desc if group is not None else "world",
        site=_site(),
        size=_size(group),
        is_repeatable=name in _COPIES or _is_extremum(args, kwargs) or _is_out_of_place(args, kwargs),
    )


def _is_extremum(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return True for a maximum or minimum, which a second call does not change."""
    return any(
        isinstance(value, dist.ReduceOp | dist.ReduceOp.RedOpType) and value in (dist.ReduceOp.MAX, dist.ReduceOp.MIN)
        for value in (*args, *kwargs.values())
    )


def _is_out_of_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return True if a call writes to another tensor than it reads, so that a second call gives the same."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    # Tensors without elements all have address 0.
    starts = [start for tensor in tensors if (start := tensor.untyped_storage().data_ptr())]
    return len(tensors) > 1 and len(set(starts)) == len(starts)


def _site() -> str:
    """Return the file, function and line that called torch.distributed."""
    frame: Any = sys._getframe(1)
    while "/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-2:])}:{frame.f_code.co_name}:{frame.f_lineno}"


def _group(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the process group of a call; None for the world's."""
    found = [value for value in (*kwargs.values(), *args) if isinstance(value, dist.ProcessGroup)]
    if not found and args and isinstance(args[0], list) and args[0] and isinstance(args[0][0], dist.P2POp):
        found = [args[0][0].group]
    return next((group for group in found if group is not dist.group.WORLD), None)


def _size(group: Any) -> int:
    return int(dist.get_world_size(group))


@contextmanager
def _at_once(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
    """Make a call at once, even if its group coalesces calls, which could merge two equal calls."""
    group = _group(args, kwargs) or distributed_c10d._get_default_group()
    gathered = distributed_c10d._world.pg_coalesce_state
    waiting = gathered.pop(group, None)
    try:
        yield
    finally:
        if waiting is not None:
            gathered[group] = waiting


def _done(function: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    if function.__name__ == "batch_isend_irecv":
        return []
    return _Finished() if kwargs.get("async_op") else None


def _on_another_group(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mine = _group(args, kwargs)
    ranks = dist.get_process_group_ranks(mine if mine is not None else dist.group.WORLD)
    if function.__name__ in _MESSAGES:
        return _misdirected(function, args, kwargs, ranks)
    peers = {kwargs[name] for name in _PEERS if isinstance(kwargs.get(name), int)}
    if (other := _another(ranks, lambda members: peers <= set(members))) is None:
        return _done(function, kwargs)
    if mine is None:
        return function(*args, **{**kwargs, "group": other})
    swapped = {name: other if value is mine else value for name, value in kwargs.items()}
    return function(*(other if value is mine else value for value in args), **swapped)


def _misdirected(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], ranks: list[int]) -> Any:
    """Send messages to the rank with their peer's number in another group; to the same peer they would arrive."""
    is_batch = function.__name__ == "batch_isend_irecv"
    named = {name: kwargs[name] for name in _PEERS if isinstance(kwargs.get(name), int)}
    peers = {one.peer for one in args[0]} if is_batch else set(named.values())

    def there(peer: int, members: list[int]) -> int:
        return members[ranks.index(peer) % len(members)]

    other = _another(ranks, lambda members: any(there(peer, members) != peer for peer in peers))
    if other is None:
        return _done(function, kwargs)
    members = dist.get_process_group_ranks(other)
    if is_batch:
        return function([dist.P2POp(one.op, one.tensor, there(one.peer, members), other) for one in args[0]])
    return function(*args, **{**kwargs, **{name: there(peer, members) for name, peer in named.items()}, "group": other})


def _another(ranks: list[int], is_wrong: Callable[[list[int]], bool]) -> Any:
    """Return a group of this rank with other members for which `is_wrong` is True, of several ranks if possible."""
    groups = [(group, dist.get_process_group_ranks(group)) for group in distributed_c10d._world.pg_map]
    fitting = [
        (len(members) == 1, members, group)
        for group, members in groups
        if members != ranks and dist.get_rank() in members and is_wrong(members)
    ]
    return min(fitting, key=lambda found: found[:2], default=(None, None, None))[2]
