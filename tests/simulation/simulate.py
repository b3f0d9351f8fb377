"""Simulated histories: false alarms and detections of the judgement, and its delay.

    python -m tests.simulation.simulate docs/simulated-history.md

writes the table that is committed. The seed is fixed, so the same code writes the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from mimo_bench.report.history.changepoints import change_points
from mimo_bench.report.history.expectations import Expectations
from mimo_bench.report.history.judgement import judge_nights
from mimo_bench.report.history.nights import Night
from mimo_bench.report.markdown import table
from mimo_bench.util.files import write_atomically

SEED = 20251103
NUM_SERIES, NUM_NIGHTS, LAYOUTS_IN_A_MATRIX = 200, 90, 20

Kind = Literal["steady", "outliers", "slower by 5 %", "slower by 10 %", "faster by 10 %", "drift of 0.2 % a night"]
KINDS: tuple[Kind, ...] = (
    "steady",
    "outliers",
    "slower by 5 %",
    "slower by 10 %",
    "faster by 10 %",
    "drift of 0.2 % a night",
)

LAUNCH_NOISE, NIGHT_NOISE = 0.015, 0.01
"""Standard deviations, as shares of the step: between launches of one night, and between nights."""

OUTLIERS = 0.03
"""Share of nights, in the series that have them, on which a neighbour made everything slower by 10 to 40 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """One simulated series: its nights, and the night on which it changes."""

    kind: Kind
    launches: tuple[tuple[float, ...], ...]
    changes_at: int | None
    """First night of the change; None if nothing lasting happens."""
    outliers: frozenset[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Judgement of one series."""

    made: Made
    called: frozenset[int]
    """Nights that were called regressed or improved."""
    cuts: tuple[int, ...]


def main() -> None:
    """Write the table to the file named on the command line."""
    path = Path(sys.argv[1])
    write_atomically(path, report().encode())
    print(f"{path}: written")


def report(num_series: int = NUM_SERIES) -> str:
    """Return the whole page as Markdown."""
    sections = [simulate(num_launches, num_series) for num_launches in (1, 5)]
    parts = ["# How often the judgement of a history is wrong", HEAD.format(num_series=num_series)]
    for num_launches, outcomes in zip((1, 5), sections, strict=True):
        launches = "1 launch" if num_launches == 1 else f"{num_launches} launches"
        parts += [f"## {launches} a night", summary(outcomes)]
    return "\n\n".join(parts) + "\n\n" + EXPLAINED


HEAD = (
    f"{{num_series}} made-up series of {NUM_NIGHTS} nights, judged night by night in matrices of {LAYOUTS_IN_A_MATRIX} "
    f"layouts, seed {SEED}. Launches of one night differ by {LAUNCH_NOISE:.1%}, nights by {NIGHT_NOISE:.1%} (standard "
    f"deviations); changes begin between night 30 and 60; in the series with outliers, {OUTLIERS:.0%} of the nights "
    f"are 10 to 40 % slower. Written by `python -m tests.simulation.simulate`."
)

EXPLAINED = """- *False calls*: nights called slower or faster although nothing had happened, as a share of all such
  nights; in the series with outliers, the outliers themselves are counted apart.
- *Called*: series whose change was called within 7 nights; for a drift, at any time.
- *After*: nights from the change to the call, in the median; a single launch a night is only believed when a second
  night confirms it, so it never comes on the same night.
- *Change points*: those found within 3 nights of a true one, of all true ones; and those found elsewhere, for each
  series.
"""


def simulate(num_launches: int, num_series: int) -> list[Outcome]:
    """Judge every series night by night."""
    draw = np.random.default_rng(SEED)
    made = [make(KINDS[index % len(KINDS)], num_launches, draw) for index in range(num_series)]
    matrices = [made[start : start + LAYOUTS_IN_A_MATRIX] for start in range(0, num_series, LAYOUTS_IN_A_MATRIX)]
    return [outcome for matrix in matrices for outcome in judge(matrix)]


def make(kind: Kind, num_launches: int, draw: np.random.Generator) -> Made:
    """Return one series of `kind`."""
    nights = np.arange(NUM_NIGHTS)
    level = np.full(NUM_NIGHTS, float(draw.uniform(0.1, 2.0)))
    at = int(draw.integers(30, 61)) if kind not in ("steady", "outliers") else None
    if at is not None:
        ratio = {"slower by 5 %": 1.05, "slower by 10 %": 1.1, "faster by 10 %": 1 / 1.1}.get(kind)
        level *= np.where(nights >= at, ratio, 1.0) if ratio else 1.002 ** np.maximum(0, nights - at)
    hit = nights[draw.random(NUM_NIGHTS) < OUTLIERS] if kind == "outliers" else nights[:0]
    level[hit] *= draw.uniform(1.1, 1.4, len(hit))
    level *= np.exp(draw.normal(0.0, NIGHT_NOISE, NUM_NIGHTS))
    launches = level[:, None] * np.exp(draw.normal(0.0, LAUNCH_NOISE, (NUM_NIGHTS, num_launches)))
    return Made(
        kind=kind,
        launches=tuple(tuple(map(float, row)) for row in launches),
        changes_at=at,
        outliers=frozenset(map(int, hit)),
    )


def judge(matrix: Sequence[Made]) -> list[Outcome]:
    """Judge the layouts of one matrix night by night."""
    nights = [
        [_night(f"layout {index}", night, each) for index, each in enumerate(matrix)] for night in range(NUM_NIGHTS)
    ]
    called: dict[str, set[int]] = {f"layout {index}": set() for index in range(len(matrix))}
    before: list[Night] = []
    for number, tonight in enumerate(nights):
        for comparison in judge_nights(tonight, before, Expectations()):
            if comparison.verdict in ("regressed", "improved"):
                called[comparison.layout].add(number)
        before += tonight
    return [
        Outcome(
            made=each,
            called=frozenset(called[f"layout {index}"]),
            cuts=tuple(change_points([median(launches) for launches in each.launches])),
        )
        for index, each in enumerate(matrix)
    ]


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return a row a kind of series."""
    heads = ("series", "number", "false calls", "outliers called", "called", "after", "change points", "elsewhere")
    return table(heads, [_row(kind, [each for each in outcomes if each.made.kind == kind]) for kind in KINDS])


def _row(kind: Kind, found: Sequence[Outcome]) -> tuple[str, ...]:
    quiet = [(each, night) for each in found for night in range(NUM_NIGHTS) if _is_quiet(each.made, night)]
    outliers = [(each, night) for each in found for night in each.made.outliers]
    delays = [delay for each in found if (delay := _delay(each)) is not None]
    changing = [each for each in found if each.made.changes_at is not None]
    near = sum(any(_is_near(cut, each) for cut in each.cuts) for each in changing)
    far = sum(not _is_near(cut, each) for each in found for cut in each.cuts)
    return (
        kind,
        str(len(found)),
        _share(sum(night in each.called for each, night in quiet), len(quiet)),
        _share(sum(night in each.called for each, night in outliers), len(outliers)),
        _share(len(delays), len(changing)),
        f"{median(delays):.0f}" if delays else "-",
        _share(near, len(changing)) if "drift" not in kind else "-",
        f"{far / len(found):.2f}" if "drift" not in kind else "-",
    )


def _is_quiet(made: Made, night: int) -> bool:
    return night not in made.outliers and (made.changes_at is None or night < made.changes_at)


def _is_near(cut: int, outcome: Outcome) -> bool:
    at = outcome.made.changes_at
    return at is not None and abs(cut - at) <= 3


def _delay(outcome: Outcome) -> int | None:
    """Return the nights from the change to the first call after it; None if it was not called in time."""
    at = outcome.made.changes_at
    if at is None:
        return None
    limit = NUM_NIGHTS if "drift" in outcome.made.kind else at + 7
    return min((night - at for night in outcome.called if at <= night < limit), default=None)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%} of {whole}" if whole else "-"


def _night(layout: str, number: int, made: Made) -> Night:
    launches = made.launches[number]
    return Night(
        run=f"{number:03}",
        started_at=datetime(2025, 1, 1, 2, tzinfo=UTC) + timedelta(days=number),
        scenario="made up",
        scenario_hash="s",
        layout_hash="l",
        measured_by="m",
        machine="one",
        layout=layout,
        status="passed",
        tainted=None,
        commit=None,
        software="",
        step_seconds=median(launches),
        launch_medians=launches,
        tokens_per_second_per_gpu=None,
        peak_allocated_bytes=None,
    )


if __name__ == "__main__":
    main()
