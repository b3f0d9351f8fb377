"""Two runs side by side, tested launch against launch: `mimo-bench compare OLD NEW`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mimo_bench.record import RunRecord, differences
from mimo_bench.report import words
from mimo_bench.report.history.comparable import incomparable
from mimo_bench.report.history.comparison import MIN_EFFECT, MIN_LAUNCHES, by_launches, discoveries
from mimo_bench.report.history.nights import Night, nights_of
from mimo_bench.report.markdown import table
from mimo_bench.util import UsageError


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
    launches: tuple[int, int]
    """Launches that timed it, old and new."""
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
    # All layouts that launches decide about share the error rate.
    tested = [name for name in before if name in after and _has_launches(before[name], after[name])]
    ps = [by_launches(before[name].launch_medians, after[name].launch_medians).p for name in tested]
    believed = dict(zip(tested, discoveries(ps), strict=True))
    return tuple(_side(name, before.get(name), after.get(name), believed) for name in dict.fromkeys([*before, *after]))


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
    heads = ("layout", "old", "new", "old step", "new step", "change", "launches", "verdict")
    return table(heads, (_row(side) for side in sides))


def _has_launches(old: Night, new: Night) -> bool:
    return min(len(old.launch_medians), len(new.launch_medians)) >= MIN_LAUNCHES


def _side(name: str, old: Night | None, new: Night | None, believed: dict[str, bool]) -> Side:
    was, now = (old.step_seconds if old else None), (new.step_seconds if new else None)
    is_same = old is not None and new is not None and old.layout_hash == new.layout_hash
    ratio = now / was if was and now and is_same else None
    return Side(
        layout=name,
        old=words.STATE_WORDS[old.status] if old else words.DASH,
        new=words.STATE_WORDS[new.status] if new else words.DASH,
        old_seconds=was,
        new_seconds=now,
        ratio=ratio,
        launches=(len(old.launch_medians) if old else 0, len(new.launch_medians) if new else 0),
        verdict="not compared: the layout differs"
        if old and new and not is_same
        else words.DASH
        if ratio is None
        else _verdict(ratio, is_believed=believed.get(name)),
    )


def _verdict(ratio: float, *, is_believed: bool | None) -> str:
    if is_believed is None:
        return f"unknown: {MIN_LAUNCHES} launches of each are needed (--launches {MIN_LAUNCHES})"
    if not (is_believed and abs(ratio - 1.0) >= MIN_EFFECT):
        return "the same within the noise of launches"
    return "slower" if ratio > 1.0 else "faster"


def _row(side: Side) -> tuple[str, ...]:
    return (
        side.layout,
        side.old,
        side.new,
        words.seconds(side.old_seconds),
        words.seconds(side.new_seconds),
        words.DASH if side.ratio is None else f"{(side.ratio - 1.0) * 100.0:+.1f} %",
        " and ".join(map(str, side.launches)),
        side.verdict,
    )
