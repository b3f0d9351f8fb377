"""Calls between pipeline stages and between modules: activations forward, their gradients back.

Between the stages of an encoder a shape travels ahead of both, a list of int64, one for each dim: samples may differ in
what they hold (`variable_seq_lengths`). Elsewhere ranks know it (`megatron/pipeline.py`). Messages count once as sent
and once as received.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mimo_bench.layout import LANGUAGE
from mimo_bench.models import known_encoder
from mimo_bench.predict.step import INT64_BYTES, Calls, Step

_STAGE_SHAPE_BYTES = 3 * INT64_BYTES
_DIRECTIONS = 2


def bridge_role(module: str) -> str:
    """The role of the groups over which an encoder's rows reach the language model."""
    return f"bridge.{module}->{LANGUAGE}"


def num_bridged(step: Step, module: str) -> int:
    """Ranks of an encoder's bridge; 1 where both modules share their ranks and their replicas."""
    encoder, language = step.layout.modules[module], step.layout.language
    is_shared = step.layout.placement == "colocated"
    return max(encoder.dp, language.dp) // min(encoder.dp, language.dp) if is_shared else encoder.dp + language.dp


def stage_calls(step: Step, module: str) -> Iterator[Calls]:
    """Between neighbouring stages of a module, each tensor-parallel rank with its own (`P2PCommunicator`).

    A frozen stage gets a gradient too: the schedule sends one for whatever it sent forward.
    """
    grid = step.layout.modules[module]
    num_edges = (grid.pp - 1) * grid.tp
    if not num_edges:
        return
    if module == LANGUAGE:
        messages = list(_language_payloads(step))
    else:
        messages = [size for payload in _encoder_payloads(step, module) for size in (_STAGE_SHAPE_BYTES, payload)]
    yield from _messages(
        f"{module}.pp", _DIRECTIONS * num_edges * len(messages), _DIRECTIONS * num_edges * sum(messages)
    )


def _language_payloads(step: Step) -> Iterator[int]:
    """Bytes of the hidden states of each micro-batch on each replica."""
    split = step.layout.language.tp if step.settings.sequence_parallel else 1
    for _ in range(step.num_language_passes):
        yield step.num_language_rows * step.row_bytes // split


def _encoder_payloads(step: Step, module: str) -> Iterator[int]:
    shape = known_encoder(step.shape, module)
    for items in step.replicas(module):
        yield max(1, sum(items)) * shape.num_positions * shape.hidden_size * step.element_bytes


def bridge_calls(step: Step, module: str) -> Iterator[Calls]:
    """Between an encoder and the language model."""
    if step.layout.placement == "colocated":
        yield from _shared_bridge_calls(step, module)
    else:
        yield from _apart_bridge_calls(step, module)


def _apart_bridge_calls(step: Step, module: str) -> Iterator[Calls]:
    """Leaders of replicas send rows and gradients to each other and broadcast what they get (`UnevenBridge`)."""
    role, encoder, language = bridge_role(module), step.layout.modules[module], step.layout.language
    # Each of the smaller number of replicas meets several of the larger one.
    num_edges = step.plan.num_micro_batches * max(encoder.dp, language.dp)
    num_bytes = sum(step.rows(module, sum(items)) for items in step.replicas(module)) * step.row_bytes
    yield from _messages(role, _DIRECTIONS * num_edges, _DIRECTIONS * num_bytes)
    for grid in (encoder, language):
        # Rows go to the ranks of the language model's first stage, gradients to those of the encoder's last one.
        if grid.tp > 1:
            yield Calls(
                role=role,
                collective="broadcast",
                num_calls=grid.tp * step.plan.num_micro_batches * grid.dp,
                num_bytes=grid.tp * num_bytes,
            )


def _shared_bridge_calls(step: Step, module: str) -> Iterator[Calls]:
    """Replicas of ranks that both modules share are joined by one all-gather a micro-batch, forward or backward.

    Forward where the encoder has more replicas, backward where it has fewer (`megatron/bridge.py`): a part of a replica
    is then its own already, and is only cut out. All parts of a replica are as long as the longest of them.
    """
    encoder, language = step.layout.modules[module], step.layout.language
    fan_in, fan_out = encoder.dp // language.dp, language.dp // encoder.dp
    if fan_in == fan_out or (fan_out > 1 and step.training.is_frozen(module)):
        return
    joined, num_parts = (LANGUAGE, fan_in) if fan_in > 1 else (module, fan_out)
    ranks_per_replica = step.layout.world_size // step.layout.modules[joined].dp
    longest = [step.rows(module, _longest(items, num_parts)) for items in step.replicas(module, of=joined)]
    yield Calls(
        role=bridge_role(module),
        collective="all_gather",
        num_calls=ranks_per_replica * sum(rows > 0 for rows in longest),
        num_bytes=ranks_per_replica * sum(longest) * step.row_bytes,
    )


def _longest(items: Sequence[int], num_parts: int) -> int:
    """The most items that one of `num_parts` equal runs of samples has."""
    length = len(items) // num_parts
    return max(sum(items[part * length : (part + 1) * length]) for part in range(num_parts))


def _messages(role: str, num_calls: int, num_bytes: int) -> Iterator[Calls]:
    for end in ("send", "recv"):
        yield Calls(role=role, collective=end, num_calls=num_calls, num_bytes=num_bytes)
