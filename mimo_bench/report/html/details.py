"""Text of the page about an opened layout, besides the drawings of its script.

Rows of words for the template.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from mimo_bench.record import AsTimed, DeviceState, Difference, Energy, LayoutRecord, Parity, RunRecord, Timing
from mimo_bench.report import words
from mimo_bench.report.settings import declared_settings, off_in_parity
from mimo_bench.report.tables import StepDrawing, Table, tables_of

Facts = tuple[tuple[str, str], ...]
"""What something is called, and what it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Details:
    """One layout, in words."""

    facts: Facts
    tables: tuple[Table, ...]


def of_layouts(record: RunRecord, names: Container[str]) -> dict[str, Details]:
    """Return the details of every layout in `names`, by its name."""
    draw = StepDrawing.over(record.layouts)
    return {
        layout.name: Details(facts=(*_facts(layout),), tables=(*tables_of(layout, draw, record.links),))
        for layout in record.layouts
        if layout.name in names
    }


def _facts(layout: LayoutRecord) -> Iterator[tuple[str, str]]:
    yield "reason", layout.reason
    yield "grids", words.grids(layout)
    yield "settings", declared_settings(layout) or "defaults"
    if layout.parity is not None and layout.parity.tolerance is not None and (off := off_in_parity(layout)):
        yield "left off in parity mode", ", ".join(off)
    if layout.parity is not None:
        yield from _verdict(layout.parity, layout.reason)
    if layout.timing is not None:
        yield from _pace(layout.timing)
    if (energy := layout.energy) is not None:
        yield "energy", _energy(energy)
        if energy.devices:
            yield "devices before", _state([device.before for device in energy.devices])
            yield "devices after", _state([device.after for device in energy.devices])
    for meter, why in layout.unmeasured.items():
        yield f"not measured: {meter}", why
    if (evaluation := layout.evaluation) is not None:
        right = f"{words.percent(evaluation.answer_accuracy)} of answer tokens right"
        yield "held out", f"loss {words.decimal(evaluation.loss)}, {right}, {evaluation.num_samples} samples"


def _verdict(parity: Parity, reason: str) -> Iterator[tuple[str, str]]:
    if parity.reason != reason:
        yield "verdict", parity.reason
    if parity.as_timed is None or parity.tolerance is not None:
        yield from _in_parity_mode(parity)
    if parity.as_timed is not None:
        yield from _as_timed(parity.as_timed, parity.reason)


def _in_parity_mode(parity: Parity) -> Iterator[tuple[str, str]]:
    bounds = parity.tolerance
    yield "loss", words.within(parity.loss_rel_max, bounds.loss_rel if bounds else None, mean=parity.loss_rel_mean)
    for module, rel in parity.grad_norm_rel.items():
        mean = parity.grad_norm_rel_mean.get(module)
        yield f"{module} gradient norm", words.within(rel, bounds.grad_norm_rel if bounds else None, mean=mean)
    gradient_rel = bounds.gradient_rel if bounds else None
    yield "worst gradient", _difference(parity.worst_gradient, gradient_rel)
    if parity.worst_weight is not None:
        yield "worst update", _difference(parity.worst_weight, bounds.update_rel if bounds else None)
    if parity.worst_moment is not None:
        yield "worst moment", _difference(parity.worst_moment, bounds.moment_rel if bounds else None)
    same = f"weights {words.text(parity.weights_match_at_start)}, samples {words.text(parity.samples_match)}"
    yield "same start", same
    if parity.first_divergence_step is not None:
        yield "first divergence", f"step {parity.first_divergence_step}"


def _as_timed(timed: AsTimed, reason: str) -> Iterator[tuple[str, str]]:
    # Where the timed steps decided, their reason is the layout's and stands above.
    because = "" if timed.reason == reason else f": {timed.reason}"
    yield "as timed", f"{timed.verdict}{because}"
    bounds = timed.band
    if timed.verdict == "baseline":
        yield "as timed: band", words.band(bounds) if bounds is not None else words.DASH
        return
    loss = words.within(timed.loss_rel_max, bounds.loss_rel if bounds else None, mean=timed.loss_rel_mean)
    yield "as timed: loss", loss
    for module, rel in timed.grad_norm_rel.items():
        mean = timed.grad_norm_rel_mean.get(module)
        said = words.within(rel, bounds.grad_norm_rel if bounds else None, mean=mean)
        yield f"as timed: {module} gradient norm", said


def _difference(found: Difference | None, bound: float | None) -> str:
    return words.DASH if found is None else f"{words.within(found.rel, bound)} in {found.parameter}"


def _pace(timing: Timing) -> Iterator[tuple[str, str]]:
    clock = "the wall clock" if timing.clock == "wall" else "CUDA events"
    spread = f"median {words.seconds(timing.step_seconds_median)}, IQR {words.seconds(timing.step_seconds_iqr)}"
    yield "steps", f"{len(timing.step_seconds)} by {clock}: {spread}"
    rates = [
        f"{words.rate(timing.estimated_tokens_per_second)} tokens/s",
        f"{words.rate(timing.samples_per_second)} samples/s",
        f"{words.rate(timing.images_per_second)} images/s",
        f"{words.rate(timing.model_tflops_per_gpu)} TFLOP/s per rank",
        f"MFU {words.percent(timing.mfu)}",
    ]
    yield "rates", ", ".join(rates)


def _energy(energy: Energy) -> str:
    if energy.joules_per_step is None:
        return words.text(energy.reason)
    return f"{words.rate(energy.joules_per_step)} J a step, {words.rate(energy.average_watts)} W over all devices"


def _state(devices: Sequence[DeviceState]) -> str:
    """Return the state of devices at one edge of the timed window: hottest, slowest, and why clocks were reduced."""
    heat = max((one.temperature_celsius for one in devices if one.temperature_celsius is not None), default=None)
    clock = min((one.sm_clock_mhz for one in devices if one.sm_clock_mhz is not None), default=None)
    told = [reason for one in devices for reason in one.throttle_reasons or ()]
    held = ", ".join(f"{reason} ({told.count(reason)} of {len(devices)})" for reason in dict.fromkeys(told))
    if not held and any(one.throttle_reasons is None for one in devices):
        held = words.DASH
    return (
        f"hottest {words.text(heat)} \N{DEGREE SIGN}C, slowest SM clock {words.text(clock)} MHz, "
        f"clocks held down by {held or 'nothing'}"
    )
