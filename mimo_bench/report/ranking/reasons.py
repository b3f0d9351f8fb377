"""Why a layout has its place, in words: its speed, what that costs in memory, and where its time goes.

Only what was measured is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mimo_bench.report.ranking.candidates import Candidate
from mimo_bench.report.ranking.findings import findings
from mimo_bench.report.ranking.uncertainty import rate_interval

GIB = 1024**3


def reason(candidate: Candidate, *, ranked: Sequence[Candidate], ties: Mapping[str, bool | None]) -> str:
    """Return the reason of a candidate's place among `ranked`, best first; `ties` are `Ranked.tied_with_best`."""
    said = (_pace(candidate), _place(candidate, ranked, ties), *_memory(candidate, ranked[0]))
    return "; ".join([*said, *findings(candidate.layout)])


def _pace(candidate: Candidate) -> str:
    unit = "CPU rank" if candidate.timing.clock == "wall" else "GPU"
    said = f"{_rate(candidate.rate)} tokens/s per {unit} of {candidate.layout.world_size}"
    interval = rate_interval(candidate.timing)
    return said if interval is None else f"{said} (95 %: {_rate(interval.low)} to {_rate(interval.high)})"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.3g}"


def _place(candidate: Candidate, ranked: Sequence[Candidate], ties: Mapping[str, bool | None]) -> str:
    best, *others = ranked
    if candidate is not best:
        below = f"{100.0 - candidate.rate / best.rate * 100.0:.1f} % below {best.name}"
        if ties[candidate.name]:
            return f"tied with {best.name}"
        return below if ties[candidate.name] is False else f"{below}, with too few or too noisy steps to tell"
    if tied := [other.name for other in others if ties[other.name]]:
        return f"tied with {_listed(tied)}"
    if not others:
        return "the only one that can be ranked"
    if ties[others[0].name] is None:
        return f"too few steps to tell it from {others[0].name}"
    ahead = best.rate / others[0].rate
    # Beyond twice as much, a percentage of what is above the other is hard to picture.
    return (
        f"{ahead:.1f} x as fast as {others[0].name}"
        if ahead > 2.0
        else f"{ahead * 100.0 - 100.0:.1f} % above {others[0].name}"
    )


def _listed(names: Sequence[str], *, most: int = 3) -> str:
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _memory(candidate: Candidate, best: Candidate) -> Iterator[str]:
    mine, theirs = candidate.peak_allocated_bytes, best.peak_allocated_bytes
    if mine is None:
        return
    said = f"{mine / GIB:,.1f} GiB on its fullest GPU"
    if theirs is not None and candidate is not best and abs(mine - theirs) >= 0.05 * GIB:
        said += f", {abs(mine - theirs) / GIB:,.1f} GiB {'less' if mine < theirs else 'more'}"
    yield said
