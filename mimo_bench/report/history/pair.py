"""Two runs side by side, with noise: `mimo-bench compare OLD NEW`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mimo_bench.record import RunRecord, Timing, differences, incomparable
from mimo_bench.report import words
from mimo_bench.report.history.comparison import MIN_EFFECT, MIN_LAUNCHES, by_launches, discoveries
from mimo_bench.report.history.nights import Night, nights_of
from mimo_bench.report.markdown import table
from mimo_bench.report.ranking.uncertainty import mean_step
from mimo_bench.util import UsageError

LAUNCHES_MAY_DIFFER = 0.05
"""Change that one launch of each may show by chance, through the placement of ranks and buffers, as a share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One layout in both runs."""

    layout: str
    old: str
    """Status in the old run; a dash if the layout was not in it."""
    new: str
    old_seconds: float | None
    new_seconds: float | None
    ratio: float | None
    noise: float | None
    """Share within which a change may be noise; None if launches were tested."""
    verdict: str


def compare_runs(old: RunRecord, new: RunRecord) -> tuple[Side, ...]:
    """Compare every layout of either run.

    Raises:
        UsageError: the two are not comparable; the message names everything that differs.
    """
    if reasons := incomparable(old, new):
        raise UsageError("the runs cannot be compared: " + "; ".join(reasons))
    before = {night.layout: night for night in nights_of(old, run="old")}
    after = {night.layout: night for night in nights_of(new, run="new")}
    timings = {(record is new, layout.name): layout.timing for record in (old, new) for layout in record.layouts}
    # All layouts that launches decide about share the error rate.
    tested = [name for name in before if name in after and _has_launches(before[name], after[name])]
    ps = [by_launches(before[name].launch_medians, after[name].launch_medians).p for name in tested]
    believed = dict(zip(tested, discoveries(ps), strict=True))
    return tuple(
        _side(name, before.get(name), after.get(name), timings.get((False, name)), timings.get((True, name)), believed)
        for name in dict.fromkeys([*before, *after])
    )


def notes(old: RunRecord, new: RunRecord) -> Iterator[str]:
    """Yield what else differs between two comparable runs: versions, commits, code."""
    for name, was, now in differences(old.environment, new.environment):
        yield f"{name}: {was} -> {now}"
    if old.environment.git_commit != new.environment.git_commit:
        yield f"commit: {words.text(old.environment.git_commit)} -> {words.text(new.environment.git_commit)}"
    if old.code_hash != new.code_hash:
        yield f"mimo_bench's code: {old.code_hash[:12]} -> {new.code_hash[:12]}"
    if old.measuring_hash != new.measuring_hash:
        yield f"measuring code was edited; {new.measured_by} says that its numbers still mean the same"


def pair_table(sides: Sequence[Side]) -> str:
    """Return two runs as a Markdown table."""
    heads = ("layout", "old", "new", "old step", "new step", "change", "noise", "verdict")
    return table(heads, (_row(side) for side in sides))


def _has_launches(old: Night, new: Night) -> bool:
    return min(len(old.launch_medians), len(new.launch_medians)) >= MIN_LAUNCHES


def _side(
    name: str,
    old: Night | None,
    new: Night | None,
    old_timing: Timing | None,
    new_timing: Timing | None,
    believed: dict[str, bool],
) -> Side:
    was, now = (old.step_seconds if old else None), (new.step_seconds if new else None)
    ratio = now / was if was and now else None
    noise = None if name in believed else _noise(old_timing, new_timing)
    return Side(
        layout=name,
        old=words.STATE_WORDS[old.status] if old else words.DASH,
        new=words.STATE_WORDS[new.status] if new else words.DASH,
        old_seconds=was,
        new_seconds=now,
        ratio=ratio,
        noise=noise,
        verdict=_verdict(ratio, noise, is_believed=believed.get(name)),
    )


def _noise(old: Timing | None, new: Timing | None) -> float | None:
    """Return the change that may be noise: of two windows of steps, and at least of two launches."""
    means = [mean_step(timing.step_seconds) if timing else None for timing in (old, new)]
    errors = [mean.error_share for mean in means if mean is not None]
    if len(errors) < 2:
        return None
    return float(max(LAUNCHES_MAY_DIFFER, 2.0 * sum(error**2 for error in errors) ** 0.5))


def _verdict(ratio: float | None, noise: float | None, *, is_believed: bool | None) -> str:
    if ratio is None:
        return words.DASH
    change = "slower" if ratio > 1.0 else "faster"
    if is_believed is not None:
        return change if is_believed and abs(ratio - 1.0) >= MIN_EFFECT else "the same within the noise of launches"
    if noise is None:
        return "too few steps to tell"
    return change if abs(ratio - 1.0) > noise else "the same within the noise"


def _row(side: Side) -> tuple[str, ...]:
    return (
        side.layout,
        side.old,
        side.new,
        words.seconds(side.old_seconds),
        words.seconds(side.new_seconds),
        words.DASH if side.ratio is None else f"{(side.ratio - 1.0) * 100.0:+.1f} %",
        words.DASH if side.noise is None else f"{side.noise * 100.0:.1f} %",
        side.verdict,
    )
