"""Bytes that a rank keeps of a module from step to step: parameters, gradient buffers, optimizer state. Exact.

megatron-core 0.19 lays the parameters of a module out in buckets, last parameter first. Gradients are summed in fp32.
Adam keeps two fp32 moments of every element, and an fp32 copy of the weights where those are bf16. The distributed
optimizer keeps parameters in a buffer too, padded so that each bucket splits over the data-parallel ranks, and moments
and copies only of a rank's own range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mimo_bench.layout import Grid, Precision, Settings
from mimo_bench.models import Parameter

ELEMENT_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2}
_FP32 = 4
_PARAMETER_ALIGNMENT = 64
_BUCKET_ALIGNMENT = 128
_LEAST_BUCKET, _BUCKET_PER_RANK = 40_000_000, 1_000_000
"""Elements of a bucket where gradients are reduced while the backward pass runs; else a module is one bucket."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateBytes:
    """Memory that one rank keeps for one module."""

    parameters: int
    gradients: int
    optimizer: int
    update: int
    """Further memory of the optimizer while it updates the weights."""

    @property
    def total(self) -> int:
        """All that is kept."""
        return self.parameters + self.gradients + self.optimizer


@dataclass(slots=True)
class _Bucket:
    begin: int
    end: int
    places: list[tuple[int, int, Parameter]]
    """Begin and end of each parameter in the buffer."""


def state_bytes(
    parameters: Sequence[Parameter],
    *,
    trains: Callable[[str], bool] = lambda _: True,
    grid: Grid,
    stage: int,
    dp_rank: int,
    tp_rank: int = 0,
    settings: Settings,
    precision: Precision,
) -> StateBytes:
    """Return the memory that one rank keeps for one module.

    Args:
        parameters: of its stage, in order.
        trains: whether a parameter of that name is trained.
        grid: of the module.
        stage: of the rank.
        dp_rank: of the rank.
        tp_rank: of the rank; it decides what of experts it owns, and of nothing else.
        settings: of the layout.
        precision: of weights.
    """
    element = ELEMENT_BYTES[precision]
    is_sharded = settings.distributed_optimizer
    trained = _trained(parameters, trains)
    num_frozen = sum(one.num_elements for one in parameters) - sum(one.num_elements for one in trained)
    # Experts that other ranks hold than the rest have a buffer and an optimizer of their own.
    dense = [one for one in trained if not one.has_expert_replicas]
    experts = [one for one in trained if one.has_expert_replicas]
    kinds = ((dense, grid.dp, dp_rank), (experts, grid.expert_dp, (dp_rank * grid.tp + tp_rank) // grid.ep))
    padded, owned = 0, []
    for ours, num_replicas, replica in kinds:
        buckets = list(_buckets(ours, dp=num_replicas, stage=stage, settings=settings, module_dp=grid.dp))
        padded += buckets[-1].end if buckets else 0
        owned.append(
            [
                (parameter, end - begin)
                for bucket in buckets
                for begin, end, parameter in _own(bucket, dp_rank=replica, dp=num_replicas if is_sharded else 1)
            ]
        )
    num_owned = sum(size for part in owned for _, size in part)
    kept_per_element = 2 * _FP32 + (_FP32 if precision == "bf16" else 0)
    return StateBytes(
        parameters=(num_frozen + (padded if is_sharded else sum(one.num_elements for one in trained))) * element,
        gradients=padded * _FP32,
        optimizer=num_owned * kept_per_element,
        # AdamW over lists of tensors takes the square root of all second moments of a group before it uses any.
        update=0 if settings.fused_optimizer else _FP32 * max(size for part in owned for size in _by_decay(part)),
    )


def bucket_sizes(
    parameters: Sequence[Parameter],
    *,
    trains: Callable[[str], bool],
    grid: Grid,
    stage: int,
    settings: Settings,
    of_experts: bool = False,
) -> tuple[int, ...]:
    """Elements of each bucket in which one rank reduces the gradients of one module, padding included; see above.

    Experts that other ranks hold than the rest are reduced apart, and asked for with `of_experts`.
    """
    ours = [one for one in _trained(parameters, trains) if one.has_expert_replicas == of_experts]
    num_replicas = grid.expert_dp if of_experts else grid.dp
    buckets = _buckets(ours, dp=num_replicas, stage=stage, settings=settings, module_dp=grid.dp)
    return tuple(bucket.end - bucket.begin for bucket in buckets)


def _trained(parameters: Sequence[Parameter], trains: Callable[[str], bool]) -> list[Parameter]:
    return [one for one in parameters if not one.is_fixed and trains(one.name)]


def _by_decay(owned: Sequence[tuple[Parameter, int]]) -> tuple[int, int]:
    decaying = sum(size for parameter, size in owned if parameter.decays)
    return decaying, sum(size for _, size in owned) - decaying


def _buckets(
    parameters: Sequence[Parameter], *, dp: int, stage: int, settings: Settings, module_dp: int | None = None
) -> Iterator[_Bucket]:
    """The buckets of a module's buffer, in order; `dp` ranks share it, where those of the module are `module_dp`."""
    # Later stages reduce in one piece: they finish their backward passes first and wait anyway.
    per_rank = _BUCKET_PER_RANK * (module_dp or dp)
    largest = max(_LEAST_BUCKET, per_rank) if settings.overlap_grad_reduce and stage == 0 else math.inf
    is_padded = settings.distributed_optimizer
    bucket = _Bucket(begin=0, end=0, places=[])
    at = 0
    for parameter in reversed(parameters):
        if is_padded:
            at = _up(at, _PARAMETER_ALIGNMENT)
        if is_padded and parameter.is_shared and bucket.places:
            at = yield_end = _up(at, math.lcm(dp, _BUCKET_ALIGNMENT))
            yield _Bucket(begin=bucket.begin, end=yield_end, places=bucket.places)
            bucket = _Bucket(begin=at, end=at, places=[])
        begin, at = at, at + parameter.num_elements
        bucket.places.append((begin, at, parameter))
        if at - bucket.begin >= largest or (is_padded and parameter.is_shared):
            at = _up(at, math.lcm(dp, _BUCKET_ALIGNMENT)) if is_padded else at
            yield _Bucket(begin=bucket.begin, end=at, places=bucket.places)
            bucket = _Bucket(begin=at, end=at, places=[])
    if bucket.places:
        end = _up(at, math.lcm(dp, _BUCKET_ALIGNMENT)) if is_padded else at
        yield _Bucket(begin=bucket.begin, end=end, places=bucket.places)


def _own(bucket: _Bucket, *, dp_rank: int, dp: int) -> Iterator[tuple[int, int, Parameter]]:
    """The pieces of parameters in a rank's range of a bucket; with `dp` of 1 all of them."""
    size = (bucket.end - bucket.begin) // dp
    first = bucket.begin + (dp_rank if dp > 1 else 0) * size
    for begin, end, parameter in bucket.places:
        low, high = max(begin, first), min(end, first + size)
        if low < high:
            yield low, high, parameter


def _up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor
