"""Identities within one layout's record: its shape, its verdict, numbers that follow from others.

Each function yields one sentence per contradiction; `predict/validate.py` collects them for a whole run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from mimo_bench.predict import items_by_step, predict_communication
from mimo_bench.predict.communication import BATCHED
from mimo_bench.record import (
    Account,
    AsTimed,
    Communication,
    Comparing,
    LayoutRecord,
    Memory,
    Mode,
    Parity,
    Timing,
    Tolerance,
    quartiles,
)
from mimo_bench.scenario import Scenario

REL_TOLERANCE = 1e-9
"""Tolerance for another order of summation only."""
ACCOUNT_TOLERANCE = 0.01
"""Tolerance between the parts of a step, from intervals, and the step by its own clock."""
PARTS_TOLERANCE = 0.02
"""Tolerance between the parts of memory in one step and the peak of the timed window."""
COMPARING_CHUNKS_BYTES = 12 * 8 * 2**22
"""Float64 copies and indices of the 4 million elements that are compared at a time."""

STATUSES_OF_VERDICT = {
    # A layout with a verdict can still crash in a later launch: it has then neither passed nor failed.
    "passed": {"passed", "oom", "timeout", "crashed", "interrupted"},
    "baseline": {"passed", "oom", "timeout", "crashed", "interrupted"},
    "failed": {"parity_failed", "oom", "timeout", "crashed", "interrupted"},
    "unjudged": {"unjudged", "oom", "timeout", "crashed", "interrupted"},
    None: {"unjudged", "oom", "timeout", "crashed", "interrupted", "not_run"},
}


def layout_contradictions(layout: LayoutRecord, scenario: Scenario, *, modes: Sequence[Mode]) -> Iterator[str]:
    """Yield everything in one layout's record that contradicts the scenario or itself."""
    yield from _placement(layout)
    yield from _declared(layout, scenario)
    yield from _status(layout)
    yield from _series(layout, scenario)
    yield from _launches(layout, modes)
    yield from _proof(layout)
    yield from _communication(layout.communication)
    yield from _calls(layout, scenario)
    if layout.memory is not None:
        yield from _memory(layout.memory)
    if layout.comparing is not None:
        yield from _comparing(layout.comparing)
    if layout.account is not None:
        yield from _account(layout.account)
    if layout.parity is not None:
        yield from _parity(layout.parity, num_steps=len(layout.losses))
    if layout.timing is not None:
        yield from _timing(layout.timing, world_size=layout.world_size, scenario=scenario)


def _placement(layout: LayoutRecord) -> Iterator[str]:
    for name, grid in layout.modules.items():
        if len(grid.ranks) != (size := grid.tp * grid.cp * grid.pp * grid.dp):
            yield f"modules.{name}.ranks holds {len(grid.ranks)} ranks, but tp * cp * pp * dp is {size}"
    used = sorted({rank for grid in layout.modules.values() for rank in grid.ranks})
    if used != list(range(layout.world_size)):
        yield f"modules use ranks {used}, which do not tile world_size = {layout.world_size}"
    spans = {tuple(sorted(grid.ranks)) for grid in layout.modules.values()}
    if layout.placement != (expected := "colocated" if len(spans) == 1 else "disjoint"):
        yield f"placement is {layout.placement}, but the modules' ranks make it {expected}"


def _declared(layout: LayoutRecord, scenario: Scenario) -> Iterator[str]:
    if layout.name not in scenario.names:
        yield f"is no layout of the scenario, which has {', '.join(scenario.names)}"
        return
    declared = scenario.case(layout.name).layout
    ran = {name: (grid.tp, grid.cp, grid.pp, grid.dp, grid.ep, grid.ranks) for name, grid in layout.modules.items()}
    for name, grid in declared.modules.items():
        if ran.get(name) != (grid.tp, grid.cp, grid.pp, grid.dp, grid.ep, tuple(grid.ranks)):
            yield f"modules.{name} is not the grid that the scenario declares"


def _status(layout: LayoutRecord) -> Iterator[str]:
    verdict = layout.parity.verdict if layout.parity else None
    # A layout that passed parity stays open if the baseline was not timed: its timed steps are not proven.
    is_open = verdict == "passed" and layout.status == "unjudged" and layout.timing and not _as_timed(layout)
    if layout.status not in STATUSES_OF_VERDICT[verdict] and not is_open:
        yield f"status is {layout.status}, but the parity verdict is {verdict or 'null'}"
    if not layout.reason.strip():
        yield f"reason is empty; status {layout.status} needs one"
    if layout.parity and not layout.parity.reason.strip():
        yield f"parity.reason is empty; verdict {layout.parity.verdict} needs one"
    if layout.status == "not_run" and (layout.losses or layout.timing or layout.launches):
        yield "status is not_run, but there are losses, timing or launches"


def _as_timed(layout: LayoutRecord) -> AsTimed | None:
    return layout.parity.as_timed if layout.parity else None


def _proof(layout: LayoutRecord) -> Iterator[str]:
    """Yield contradictions of the verdict as timed: timed settings need their own."""
    as_timed = _as_timed(layout)
    if as_timed is None:
        if layout.status == "passed" and layout.timing:
            yield "status is passed and there is timing, but parity.as_timed is null"
        return
    if as_timed.verdict == "failed" and layout.parity and layout.parity.verdict != "failed":
        yield f"parity.as_timed.verdict is failed, but the parity verdict is {layout.parity.verdict}"
    if not as_timed.reason.strip():
        yield f"parity.as_timed.reason is empty; verdict {as_timed.verdict} needs one"
    beyond = _beyond(as_timed.loss_rel_max, as_timed.grad_norm_rel, as_timed.band)
    if beyond and as_timed.verdict != "failed":
        yield f"parity.as_timed.{beyond} is out of the band, but the verdict is {as_timed.verdict}"


def _memory(memory: Memory) -> Iterator[str]:
    """Yield contradictions of memory: a module has that of its worst rank, and parts add up to the peak."""
    for name, module in memory.modules.items():
        for field in ("peak_allocated_bytes", "peak_reserved_bytes"):
            worst = max((getattr(rank, field) for rank in memory.ranks if name in rank.modules), default=None)
            if getattr(module, field) != worst:
                yield f"memory.modules.{name}.{field} = {getattr(module, field)}, but its worst rank has {worst}"

    for rank in memory.ranks:
        if (parts := rank.parts) is None:
            continue
        held = sum(parts.model_dump().values())
        if not math.isclose(held, rank.peak_allocated_bytes, rel_tol=PARTS_TOLERANCE):
            yield (
                f"memory.ranks[{rank.rank}].parts add up to {held}, but peak_allocated_bytes = "
                f"{rank.peak_allocated_bytes}; they may differ by {PARTS_TOLERANCE:.0%}"
            )


def _comparing(comparing: Comparing) -> Iterator[str]:
    """Yield an excess of the comparison's memory: two full tensors, a bit for each element, and chunks."""
    full = comparing.largest_tensor_bytes
    if comparing.extra_bytes > (most := 2 * full + full // 32 + COMPARING_CHUNKS_BYTES):
        yield f"comparing.extra_bytes = {comparing.extra_bytes}, but two tensors of {full} bytes and chunks take {most}"


def _account(account: Account) -> Iterator[str]:
    """Yield contradictions of time budgets: the parts of a rank's step add up to it."""
    for rank in account.ranks:
        spent = rank.compute_seconds + rank.exposed_communication_seconds + rank.idle_seconds
        if not math.isclose(spent, rank.step_seconds, rel_tol=ACCOUNT_TOLERANCE):
            yield (
                f"account.ranks[{rank.rank}]: compute, exposed communication and idle add up to {spent:.6g} s, but "
                f"step_seconds = {rank.step_seconds:.6g}; they may differ by {ACCOUNT_TOLERANCE:.0%}"
            )
        if rank.wait_seconds > rank.idle_seconds * (1 + REL_TOLERANCE):
            yield f"account.ranks[{rank.rank}]: wait_seconds exceeds idle_seconds, of which it is a part"


def _communication(communication: Sequence[Communication]) -> Iterator[str]:
    """Yield contradictions of communication: transfer and wait add up to a call, of which exposed time is a part."""
    for row in communication:
        where, seconds = f"communication: {row.role} {row.collective}", row.seconds_per_step
        if seconds is None:
            continue
        if row.transfer_seconds is not None and row.wait_seconds is not None:
            parts = row.transfer_seconds + row.wait_seconds
            if not math.isclose(parts, seconds, rel_tol=1e-6, abs_tol=1e-9):
                yield f"{where}: transfer and wait add up to {parts:.6g} s, but seconds_per_step = {seconds:.6g}"
        if row.exposed_seconds is not None and row.exposed_seconds > seconds * (1 + 1e-6):
            yield f"{where}: exposed_seconds = {row.exposed_seconds:.6g} exceeds seconds_per_step = {seconds:.6g}"


def _calls(layout: LayoutRecord, scenario: Scenario) -> Iterator[str]:
    """Yield counted calls and bytes that do not follow from shapes, to the byte."""
    # Records without group sizes are older, and also count groups of a single rank.
    if layout.name not in scenario.names or not all(row.group_size for row in layout.communication):
        return
    counted: dict[tuple[str, str], tuple[float, float]] = {}
    for row in layout.communication:
        calls, num_bytes = counted.get((row.role, row.collective), (0.0, 0.0))
        counted[row.role, row.collective] = (calls + row.calls_per_step, num_bytes + row.bytes_per_step)
    if not counted:
        return
    predicted = predict_communication(scenario, layout.name, items=items_by_step(scenario))
    # If steps differ, both are means over them, and the sum of the ranks' means differs by rounding.
    room = 1e-12 if scenario.data.counts_vary else 0.0
    expected = {(row.role, row.collective): (row.num_calls, row.num_bytes) for row in predicted.rows}
    for role, collective in sorted({*counted, *expected} if predicted.is_closed else expected):
        if collective == BATCHED or role in predicted.left_out:
            continue
        calls, num_bytes = counted.get((role, collective), (0.0, 0.0))
        due_calls, due_bytes = expected.get((role, collective), (0.0, 0.0))
        found, due = (calls, num_bytes), (due_calls, due_bytes)
        if not all(math.isclose(one, other, rel_tol=room) for one, other in zip(found, due, strict=True)):
            yield (
                f"communication: {role} {collective}: {calls:.15g} calls and {num_bytes:.15g} bytes a step, but shapes "
                f"give {due_calls:.15g} and {due_bytes:.15g}"
            )


def _series(layout: LayoutRecord, scenario: Scenario) -> Iterator[str]:
    if layout.status == "passed" and len(layout.losses) != scenario.steps.parity:
        yield f"losses holds {len(layout.losses)} steps, but the scenario takes {scenario.steps.parity} parity steps"
    for module, norms in layout.grad_norms.items():
        if len(norms) != len(layout.losses):
            yield f"grad_norms.{module} holds {len(norms)} steps, but losses holds {len(layout.losses)}"


def _launches(layout: LayoutRecord, modes: Sequence[Mode]) -> Iterator[str]:
    for launch in layout.launches:
        if launch.mode not in modes:
            yield f"launches holds a {launch.mode} launch, but the run's modes are {', '.join(modes)}"


def _parity(parity: Parity, *, num_steps: int) -> Iterator[str]:
    failed = parity.verdict == "failed"
    step = parity.first_divergence_step
    if step is not None and not failed:
        yield f"parity.first_divergence_step = {step}, but the verdict is {parity.verdict}"
    if step is not None and step >= num_steps:
        yield f"parity.first_divergence_step = {step}, but losses holds {num_steps} steps"
    beyond = _beyond(parity.loss_rel_max, parity.grad_norm_rel, parity.tolerance)
    if step is None and beyond:
        yield f"parity.{beyond} is out of tolerance, but first_divergence_step is null"
    for field in ("weights_match_at_start", "samples_match"):
        if getattr(parity, field) is False and not failed:
            yield f"parity.{field} is false, but the verdict is {parity.verdict}"


def _beyond(
    loss_rel: float | None, grad_norm_rel: Mapping[str, float | None], tolerance: Tolerance | None
) -> str | None:
    """Return the first quantity beyond its bound as a key and a comparison; None if all are within."""
    if tolerance is None:
        return None
    bounds = {"loss_rel_max": (loss_rel, tolerance.loss_rel)} | {
        f"grad_norm_rel.{module}": (rel, tolerance.grad_norm_rel) for module, rel in grad_norm_rel.items()
    }
    for key, (rel, bound) in bounds.items():
        if rel is not None and rel > bound:
            return f"{key} = {rel:.3g} > {bound:.3g}"
    return None


def _timing(timing: Timing, *, world_size: int, scenario: Scenario) -> Iterator[str]:
    steps = timing.step_seconds
    if len(steps) != scenario.steps.timed:
        yield f"timing.step_seconds holds {len(steps)} steps, but the scenario times {scenario.steps.timed}"
    if not steps or not sum(steps):
        yield "timing.step_seconds adds up to no time, so no rate follows from it; leave timing null"
        return
    # Every rate is a total over a total: consumption of the window over its time.
    tokens_per_second = timing.tokens_per_step * len(steps) / sum(steps)
    low, high = quartiles(steps)
    expected: dict[str, float] = {
        "step_seconds_median": median(steps),
        "step_seconds_iqr": high - low,
        "tokens_per_second": tokens_per_second,
        "tokens_per_second_per_gpu": tokens_per_second / world_size,
        "samples_per_second": scenario.global_batch_size * len(steps) / sum(steps),
    }
    if timing.model_flops_per_step is not None and timing.model_tflops_per_gpu is not None:
        flops_per_second = timing.model_flops_per_step * len(steps) / sum(steps)
        expected["model_tflops_per_gpu"] = flops_per_second / world_size / 1e12
    if timing.launch_medians and timing.launch_medians[0] != timing.step_seconds_median:
        yield "timing.launch_medians does not begin with step_seconds_median, which is the first launch's"
    for field, value in expected.items():
        recorded = getattr(timing, field)
        if not math.isclose(recorded, value, rel_tol=REL_TOLERANCE, abs_tol=1e-12):
            yield f"timing.{field} = {recorded!r}, but the step series gives {value!r}"
