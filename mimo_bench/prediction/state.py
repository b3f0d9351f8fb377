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

from mimo_bench.layout import Grid
from mimo_bench.prediction.parameters import Parameter
from mimo_bench.scenario import Precision, Settings

ELEMENT_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2}
_FP32 = 4
_PARAMETER_ALIGNMENT = 64
_BUCKET_ALIGNMENT = 128
_LEAST_BUCKET, _BUCKET_PER_RANK = 40_000_000, 1_000_000
"""Elements of a bucket where gradients are reduced while the backward pass runs; else a module is one bucket."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateBytes:
    """What one rank keeps of one module."""

    parameters: int
    gradients: int
    optimizer: int
    update: int
    """What the optimizer needs beside that while it updates the weights."""

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
    settings: Settings,
    precision: Precision,
) -> StateBytes:
    """What one rank keeps of one module.

    Args:
        parameters: of its stage, in order.
        trains: whether a parameter of that name is trained.
        grid: of the module.
        stage: of the rank.
        dp_rank: of the rank.
        settings: of the layout.
        precision: of weights.
    """
    element = ELEMENT_BYTES[precision]
    is_sharded = settings.distributed_optimizer
    trained = _trained(parameters, trains)
    num_frozen = sum(one.num_elements for one in parameters) - sum(one.num_elements for one in trained)
    buckets = list(_buckets(trained, dp=grid.dp, stage=stage, settings=settings))
    padded = buckets[-1].end if buckets else 0
    owned = [
        (parameter, end - begin)
        for bucket in buckets
        for begin, end, parameter in _own(bucket, dp_rank=dp_rank, dp=grid.dp if is_sharded else 1)
    ]
    num_owned = sum(size for _, size in owned)
    kept_per_element = 2 * _FP32 + (_FP32 if precision == "bf16" else 0)
    return StateBytes(
        parameters=(num_frozen + (padded if is_sharded else sum(one.num_elements for one in trained))) * element,
        gradients=padded * _FP32,
        optimizer=num_owned * kept_per_element,
        # AdamW over lists of tensors takes the square root of all second moments of a group before it uses any.
        update=0 if settings.fused_optimizer else _FP32 * max(_by_decay(owned)),
    )


def bucket_sizes(
    parameters: Sequence[Parameter],
    *,
    trains: Callable[[str], bool],
    grid: Grid,
    stage: int,
    settings: Settings,
) -> tuple[int, ...]:
    """Elements of each bucket in which one rank reduces the gradients of one module, padding included; see above."""
    trained = _trained(parameters, trains)
    return tuple(bucket.end - bucket.begin for bucket in _buckets(trained, dp=grid.dp, stage=stage, settings=settings))


def _trained(parameters: Sequence[Parameter], trains: Callable[[str], bool]) -> list[Parameter]:
    return [one for one in parameters if not one.is_fixed and trains(one.name)]


def _by_decay(owned: Sequence[tuple[Parameter, int]]) -> tuple[int, int]:
    decaying = sum(size for parameter, size in owned if parameter.decays)
    return decaying, sum(size for _, size in owned) - decaying


def _buckets(parameters: Sequence[Parameter], *, dp: int, stage: int, settings: Settings) -> Iterator[_Bucket]:
    """The buckets of a module's buffer, in order."""
    # Later stages reduce in one piece: they finish their backward passes first and wait anyway.
    largest = max(_LEAST_BUCKET, _BUCKET_PER_RANK * dp) if settings.overlap_grad_reduce and stage == 0 else math.inf
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
