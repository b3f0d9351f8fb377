"""Judgement of a run by the nights before it: what got slower, what got faster, and what is noise.

A layout is compared with its first comparable nights since its reference was last renewed. At most `MAX_NIGHTS` make a
reference, and none that stood out. A slow drift therefore ends up outside as a jump does. A regression stays one until
it is mended or accepted, unless its reference has fewer than `MIN_REFERENCE_NIGHTS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mimo_bench.record import (
    PLANTED,
    Comparison,
    ExpectedFailure,
    HistoryComparison,
    LayoutRecord,
    Quantity,
    RunRecord,
    read_run,
)
from mimo_bench.report.history.comparable import incomparable
from mimo_bench.report.history.comparison import (
    MIN_LAUNCHES,
    MIN_REFERENCE_NIGHTS,
    Finding,
    by_band,
    by_launches,
    discoveries,
)
from mimo_bench.report.history.expectations import Expectations, Reference, read_expectations
from mimo_bench.report.history.nights import Night, nights_of
from mimo_bench.report.history.store import History
from mimo_bench.util import RecordError, counted

MAX_NIGHTS = 20
"""Nights in a reference; more would follow a drift."""

STANDS_OUT = 0.01
"""p-value from which a night is left out of the reference."""

MOVED = ("regressed", "suspect", "improved")
"""Verdicts of a step time that changed."""

ALIKE = 0.1
"""Largest difference between changes that one cause may have."""

QUANTITIES: dict[Quantity, tuple[str, str]] = {
    "step_seconds": ("slower", "faster"),
    "peak_allocated_bytes": ("larger", "smaller"),
}
"""Quantities that are followed, with the words for more and less of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One quantity of one layout tonight, with its reference and the result of the test."""

    night: Night
    quantity: Quantity
    value: float
    reference: tuple[Night, ...]
    finding: Finding | None
    is_confirmed: bool
    """True if the night before stood out in the same direction; a band alone is believed only then."""


def compare_with_history(record: RunRecord, directory: Path) -> HistoryComparison:
    """Return the comparison of a finished run with the history in `directory`, which does not contain it yet.

    Raises:
        HistoryError: the file of expectations cannot be read.
    """
    history = History(directory)
    expectations = read_expectations(history.expectations_file)
    tonight = list(nights_of(record, run="tonight"))
    before = [night for night in history.nights() if night.started_at < record.started_at]
    series = {night.series for night in tonight}
    comparable = [night for night in before if night.series in series and night.tainted is None]
    is_clean = record.tainted is None or record.tainted.endswith(PLANTED)
    return HistoryComparison(
        directory=str(directory),
        num_runs=len({night.run for night in comparable}) if is_clean else 0,
        since=in_words(comparable[-1]) if comparable and is_clean else None,
        not_compared=None if comparable and is_clean else _why_not(record, before, history),
        held=judge_nights(tonight, before, expectations),
        expected_failures=tuple(_expected_failures(record, tonight, expectations)),
    )


def in_words(night: Night) -> str:
    """Return a run in words: `2026-11-21 02:00 UTC, commit a11b01e`."""
    return f"{night.started_at:%Y-%m-%d %H:%M} UTC" + (f", commit {night.commit[:7]}" if night.commit else "")


def regressions(comparison: HistoryComparison | None) -> list[Comparison]:
    """Return the comparisons of layouts that got slower or larger and were not expected to."""
    found = comparison.held if comparison is not None else ()
    return [each for each in found if each.verdict == "regressed" and each.expected is None]


def unexpected(layouts: Iterable[LayoutRecord], comparison: HistoryComparison | None) -> list[LayoutRecord]:
    """Return the layouts whose status counts: all but those that were expected to end as they did."""
    failures = comparison.expected_failures if comparison is not None else ()
    known = {each.layout for each in failures if each.has_failed}
    return [layout for layout in layouts if layout.name not in known]


def judge_nights(
    tonight: Sequence[Night], before: Sequence[Night], expectations: Expectations
) -> tuple[Comparison, ...]:
    """Compare every quantity of every layout of one run with earlier nights.

    Args:
        tonight: the layouts of one run.
        before: nights of earlier runs, oldest first; those that are not comparable are skipped.
        expectations: references and expected failures.
    """
    questions = [
        question
        for night in tonight
        if night.is_judged
        for quantity in QUANTITIES
        if (question := _question(night, quantity, before, expectations)) is not None
    ]
    # Written references are decisions: only tests share the error rate.
    ps = {index: each.finding.p for index, each in enumerate(questions) if each.finding is not None}
    believed = dict(zip(ps, discoveries(list(ps.values())), strict=True))
    return _with_machine(
        [
            _marked(
                _compared(question, expectations, is_believed=believed.get(index, False)), question.night, expectations
            )
            for index, question in enumerate(questions)
        ]
    )


def _with_machine(found: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Return the comparisons; if all layouts' step times moved alike, their reasons name the machine as a cause."""
    ratios = [each.ratio for each in found if each.quantity == "step_seconds" and each.verdict in MOVED and each.ratio]
    num_timed = sum(each.quantity == "step_seconds" for each in found)
    if num_timed < 2 or len(ratios) < num_timed or max(ratios) / min(ratios) - 1.0 > ALIKE:
        return tuple(found)
    said = f"; all {num_timed} layouts, the baseline too, moved alike: look at the machine before the code"
    return tuple(
        each.model_copy(update={"reason": each.reason + said}) if each.quantity == "step_seconds" else each
        for each in found
    )


def _question(night: Night, quantity: Quantity, before: Sequence[Night], expectations: Expectations) -> Question | None:
    """Return what is to be decided about one quantity; None if it was not measured."""
    if (value := night.value(quantity)) is None:
        return None
    since = expectations.accepted_since(night)
    comparable = [
        each
        for each in before
        if each.series == night.series
        and each.counts
        and each.value(quantity)
        and (not since or each.started_at >= since)
    ]
    reference = choose_reference(comparable, quantity)
    finding = compare(reference, night, quantity)
    last = compare(reference, comparable[-1], quantity) if comparable and comparable[-1] not in reference else None
    return Question(
        night=night,
        quantity=quantity,
        value=value,
        reference=reference,
        finding=finding,
        is_confirmed=bool(finding and last and stands_out(last) and (last.ratio > 1.0) == (finding.ratio > 1.0)),
    )


def choose_reference(comparable: Sequence[Night], quantity: Quantity) -> tuple[Night, ...]:
    """Return the first nights that did not stand out from those before them.

    Fewer than `MIN_REFERENCE_NIGHTS` that are followed by as many others in a row, which all stand out from them, were
    the exception: the reference then begins after them.
    """
    chosen: list[Night] = []
    apart: list[Night] = []
    for night in comparable:
        if len(chosen) == MAX_NIGHTS:
            break
        finding = compare(chosen, night, quantity)
        if finding is None or not stands_out(finding):
            chosen.append(night)
            apart = []
        else:
            apart.append(night)
        if len(chosen) < MIN_REFERENCE_NIGHTS <= len(apart):
            return choose_reference(comparable[comparable.index(apart[0]) :], quantity)
    return tuple(chosen)


def compare(reference: Sequence[Night], night: Night, quantity: Quantity) -> Finding | None:
    """Compare a night with its reference, by launches if there are enough, else by the band; None without either.

    With both, both must find a change: launches of one night share its temperature and its neighbours.
    """
    if (value := night.value(quantity)) is None:
        return None
    old = tuple(known for each in reference if (known := each.value(quantity)) is not None)
    band = by_band(old, value) if len(old) >= MIN_REFERENCE_NIGHTS else None
    old_launches = tuple(launch for each in reference for launch in each.launches(quantity))
    launches = night.launches(quantity)
    if min(len(old_launches), len(launches)) < MIN_LAUNCHES:
        return band
    found = by_launches(old_launches, launches)
    return found if band is None else replace(found, p=max(found.p, band.p), spread=band.spread)


def stands_out(finding: Finding) -> bool:
    """Return whether a night is left out of a reference."""
    return finding.p <= STANDS_OUT and finding.is_large


def _compared(question: Question, expectations: Expectations, *, is_believed: bool) -> Comparison:
    written = expectations.reference_of(question.night, question.quantity)
    if written is not None:
        return _by_reference(question, written)
    finding = question.finding
    if finding is None:
        return _comparison(question, "unknown", _too_little(question), level=None)
    level = question.value / finding.ratio
    change = f"{_change_in_words(question, finding.ratio)} ({finding.method}, p = {finding.p:.2g}"
    change += f", nights spread by {finding.spread:.1%})" if finding.spread is not None else ")"
    if not (is_believed and finding.is_large):
        return _comparison(question, "steady", f"within the noise: {change}", level=level, p=finding.p)
    if finding.method.startswith("band") and not question.is_confirmed:
        reason = f"{change}; once is not enough where nights had too few launches: the next run decides"
        return _comparison(question, "suspect", reason, level=level, p=finding.p)
    return _decided(question, finding.ratio, change, level=level, p=finding.p)


def _by_reference(question: Question, written: Reference) -> Comparison:
    ratio = question.value / written.value
    allowed = f"+{written.slower:.0%} -{written.faster:.0%}"
    change = f"{_change_in_words(question, ratio)} than the written reference, which allows {allowed}"
    if 1.0 - written.faster <= ratio <= 1.0 + written.slower:
        return _comparison(question, "steady", change, level=written.value)
    return _decided(question, ratio, change, level=written.value)


def _decided(question: Question, ratio: float, change: str, *, level: float, p: float | None = None) -> Comparison:
    if ratio > 1.0:
        return _comparison(question, "regressed", change, level=level, p=p)
    return _comparison(
        question, "improved", f"{change}; renew the reference: mimo-bench history accept", level=level, p=p
    )


def _comparison(
    question: Question, verdict: str, reason: str, *, level: float | None, p: float | None = None
) -> Comparison:
    return Comparison.model_validate(
        {
            "layout": question.night.layout,
            "quantity": question.quantity,
            "verdict": verdict,
            "reason": reason,
            "value": question.value,
            "reference": level,
            "ratio": question.value / level if level else None,
            "p": p,
        }
    )


def _change_in_words(question: Question, ratio: float) -> str:
    more, less = QUANTITIES[question.quantity]
    return f"{abs(ratio - 1.0):.1%} {more if ratio >= 1.0 else less}"


def _too_little(question: Question) -> str:
    num = len(question.reference)
    launches = sum(len(night.launches(question.quantity)) for night in question.reference)
    change = f"{counted(num, 'comparable run')} and {MIN_REFERENCE_NIGHTS} are needed"
    if question.quantity == "step_seconds":
        change += f"; or {MIN_LAUNCHES} launches on either side (--launches), here {launches}"
        change += f" and {len(question.night.launch_medians)}"
    return change


def _marked(comparison: Comparison, night: Night, expectations: Expectations) -> Comparison:
    """Return the comparison, marked if its regression was expected."""
    if comparison.verdict != "regressed":
        return comparison
    known = next((each for each in expectations.failure_of(night) if each.status == "regressed"), None)
    expected = None if known is None else f"{known.reason} ({known.link})"
    return comparison.model_copy(update={"expected": expected})


def _why_not(record: RunRecord, before: Sequence[Night], history: History) -> str:
    if record.tainted is not None and not record.tainted.endswith(PLANTED):
        return f"this run is tainted: {record.tainted}"
    names = {night.scenario for night in nights_of(record, run="")}
    last = next((night for night in reversed(before) if night.scenario in names), None)
    if last is None:
        return "the history holds no earlier run of this scenario"
    try:
        reasons = incomparable(read_run(history.run_directory(last.run)), record)
    except RecordError as error:
        reasons = [str(error)]
    return f"to {in_words(last)}: {'; '.join(reasons) or 'no layout is the same'}"


def _expected_failures(
    record: RunRecord, tonight: Sequence[Night], expectations: Expectations
) -> Iterator[ExpectedFailure]:
    status = {layout.name: layout.status for layout in record.layouts}
    for night in tonight:
        for known in expectations.failure_of(night):
            # A regression that was expected is marked in its comparison.
            if known.status != "regressed":
                yield ExpectedFailure(
                    layout=night.layout,
                    expected_status=known.status,
                    has_failed=status[night.layout] == known.status,
                    reason=known.reason,
                    link=known.link,
                )
