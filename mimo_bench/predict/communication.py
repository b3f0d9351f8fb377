"""Bytes that the ranks of a layout put into each collective of each group role in a step. Exact, arithmetic only.

`check` prints it, `validate` compares
records with it, and the tests compare the calls that ranks of every kind of layout made.

Calls and bytes count as the meters count them: over all ranks, of the tensors that a rank puts in, and nothing of
groups of one rank. They are those of the timed settings. What is not exact is left out by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mimo_bench.layout import LANGUAGE, Layout
from mimo_bench.models import unknown_modules
from mimo_bench.predict.calls.between import bridge_calls, bridge_role, num_bridged, stage_calls
from mimo_bench.predict.calls.expert_parallel import expert_calls
from mimo_bench.predict.calls.once import (
    norm_calls,
    replica_calls,
    split_norm_calls,
    tied_embedding_calls,
    world_calls,
)
from mimo_bench.predict.calls.tensor_parallel import encoder_calls, language_calls
from mimo_bench.predict.step import Buckets, Calls, Items, Step
from mimo_bench.scenario import Scenario

BATCHED = "coalesced"
"""Rows that no layout predicts: how many messages are launched together depends on the transport and on how far the
schedule is filled. Their calls and bytes are those of `send` and `recv`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanCalls:
    """Calls of one collective on one group role, over all ranks, as the mean over some steps; else like `Calls`."""

    role: str
    collective: str
    num_calls: float
    num_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CommunicationPrediction:
    """A step's calls and bytes."""

    rows: tuple[MeanCalls, ...]
    """One for each role and collective, sorted."""
    left_out: Mapping[str, str]
    """Roles about which nothing is said, and why."""
    is_closed: bool
    """Whether there are no other roles: another package's encoder may have groups of its own."""


def predict_communication(
    scenario: Scenario, name: str, *, items: Sequence[Items] | None, buckets: Buckets | None = None
) -> CommunicationPrediction:
    """A step of the layout called `name`: the mean over steps whose samples have these items.

    Args:
        scenario: holds the layout.
        name: of the layout.
        items: of each step's samples, as `items_by_step` gives them; where they are None, some roles are left out.
        buckets: what predictions of other layouts of the scenario left, and this one adds to; None for nothing.
    """
    if (builder := scenario.shape.builder) is not None:
        left_out = _all_roles(scenario.case(name).layout, builder)
        return CommunicationPrediction(rows=(), left_out=left_out, is_closed=False)
    steps = [Step.of(scenario, name, one, buckets=buckets) for one in ([None] if items is None else items)]
    left_out = _left_out(steps[0])
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for calls in (calls for step in steps for calls in _calls(step, left_out)):
        total = sums[calls.role, calls.collective]
        total[0] += calls.num_calls
        total[1] += calls.num_bytes
    rows = tuple(
        MeanCalls(role=role, collective=collective, num_calls=num_calls / len(steps), num_bytes=num_bytes / len(steps))
        for (role, collective), (num_calls, num_bytes) in sorted(sums.items())
        if num_calls
    )
    return CommunicationPrediction(rows=rows, left_out=left_out, is_closed=not unknown_modules(scenario.shape))


def _calls(step: Step, left_out: Mapping[str, str]) -> Iterator[Calls]:
    yield from world_calls(step)
    yield from tied_embedding_calls(step)
    if f"{LANGUAGE}.tp" not in left_out:
        yield from split_norm_calls(step)
        yield from language_calls(step)
    yield from expert_calls(step)
    for module in step.layout.modules:
        yield from norm_calls(step, module)
        if f"{module}.dp-cp" not in left_out:
            yield from replica_calls(step, module)
        if f"{module}.pp" not in left_out:
            yield from stage_calls(step, module)
    for module in step.layout.encoders:
        if f"{module}.tp" not in left_out:
            yield from encoder_calls(step, module)
        if bridge_role(module) not in left_out:
            yield from bridge_calls(step, module)


def _all_roles(layout: Layout, builder: str) -> dict[str, str]:
    """Return every role of a layout whose model is built by another package."""
    degrees = {
        f"{module}.{axis}": num_ranks
        for module, grid in layout.modules.items()
        for axis, num_ranks in (("tp", grid.tp), ("pp", grid.pp), ("dp-cp", grid.dp))
    }
    bridges = {bridge_role(module): layout.world_size for module in layout.encoders}
    found: dict[str, str] = {}
    _add(found, {**degrees, **bridges}, f"{builder!r} of another package builds the model")
    return found


def _left_out(step: Step) -> dict[str, str]:
    """Roles whose calls these integers do not decide, if their groups have several ranks."""
    found: dict[str, str] = {}
    for module, grid in step.layout.encoders.items():
        inside = {f"{module}.tp": grid.tp, f"{module}.pp": grid.pp}
        across = {bridge_role(module): num_bridged(step, module), f"{LANGUAGE}.tp": step.layout.language.tp}
        if step.items is None:
            _add(found, {**inside, **across}, "the number of items of samples is unknown")
        if module in unknown_modules(step.shape):
            _add(found, {**inside, f"{module}.dp-cp": grid.dp}, f"the layers of {module} are another package's")
    return found


def _add(found: dict[str, str], ranks_by_role: Mapping[str, int], reason: str) -> None:
    found.update({role: reason for role, num_ranks in ranks_by_role.items() if num_ranks > 1})
