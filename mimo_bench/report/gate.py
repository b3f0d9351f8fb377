"""Pages of the campaigns that prove the gate, from their accounts, and their lines for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from mimo_bench.launch import RANKS_PER_GPU
from mimo_bench.record import (
    Alarms,
    CleanRun,
    Environment,
    Finding,
    HeldBaseline,
    MutantTrial,
    Selftest,
    Session,
    Trial,
    num_mutants,
    survivors_of,
)
from mimo_bench.report.charts.scales import Decades
from mimo_bench.report.markdown import table
from mimo_bench.util import counted


def describe_finding(finding: Finding) -> str:
    """Return the line of a selftest's trial or baseline."""
    mark = "ok  " if finding.is_right else "FAIL"
    layout = finding.layout if finding.scenario == "given" else f"{finding.layout} of the companion"
    if isinstance(finding, Trial):
        return f"{mark} {finding.fault or 'no fault'} in {layout}: {finding.found}: {finding.reason}"
    held = finding.held
    mark = mark if held.verdict != "no counterpart" else "-   "
    return f"{mark} transformers on {layout}: {held.verdict}: {held.reason}"


def describe_mutant(trial: MutantTrial) -> str:
    """Return the line of a mutant."""
    call = trial.mutant.call
    return f"{trial.ended}: {trial.mutant.how} {call.collective} of {call.role} at {call.site}"


def describe_clean_run(run: CleanRun) -> str:
    """Return the line of a clean layout."""
    return f"seed {run.seed}, {run.layout}: {run.status}: {run.reason}"


def render_selftest(selftest: Selftest) -> str:
    """Return the tables of trials and of baselines as Markdown."""
    trials = (
        (
            trial.fault or "none",
            trial.layout if trial.scenario == "given" else f"{trial.layout} ({trial.scenario})",
            trial.expected,
            trial.found,
            "yes" if trial.is_right else "NO",
            trial.reason,
        )
        for trial in selftest.trials
    )
    heads = ("model", "loss", "bound", "worst gradient", "bound", "verdict", "reason")
    return _page(
        f"# Selftest: {selftest.summary}",
        f"Made by `{' '.join(selftest.command)}`.",
        table(("fault", "layout", "expected", "found", "as expected", "reason"), trials),
        "## Baselines compared with transformers",
        "Relative errors of the first step: of its loss, and of the parameter whose gradient is furthest off.",
        table(heads, map(_baseline_row, selftest.baselines)),
    )


def _baseline_row(one: HeldBaseline) -> tuple[str, ...]:
    held = one.held
    numbers = (held.loss_rel, held.loss_bound, held.gradient_rel, held.gradient_bound)
    shown = ("-" if value is None else f"{value:.1e}" for value in numbers)
    return f"{one.model} ({one.scenario})", *shown, held.verdict, held.reason


def render_mutants(trials: Sequence[MutantTrial], num_planned: int, command: Sequence[str]) -> str:
    """Return the account as Markdown: how many were caught, by which check, and which survived."""
    survivors = survivors_of(trials)
    spared = [trial for trial in trials if trial.survived and trial not in survivors]
    num_tried, num_caught = num_mutants(trials), num_mutants(trials) - num_mutants(survivors)
    ended = Counter(trial.ended for trial in trials if not trial.survived)
    return _page(
        f"# Mutants: {num_caught} of {num_tried} caught",
        f"Made by `{' '.join(command)}`; {num_tried} of {num_planned} planned mutants were run.",
        table(("caught by", "mutants"), ((name, str(number)) for name, number in ended.most_common())),
        "## Survivors",
        _mutant_rows(survivors) if survivors else "None.",
        "## Caught in another layout than these",
        _mutant_rows(spared) if spared else "None.",
        "## All",
        _mutant_rows(trials),
    )


def _mutant_rows(trials: Iterable[MutantTrial]) -> str:
    return table(
        ("role", "collective", "site", "mutation", "layout", "ended as"),
        (
            (call.role, call.collective, call.site, one.mutant.how, one.layout, one.ended)
            for one in trials
            for call in (one.mutant.call,)
        ),
    )


def render_alarms(alarms: Alarms) -> str:
    """Return the account as Markdown: the rate of false alarms with its bound, and each of them."""
    seeds = sorted({run.seed for run in alarms.runs})
    largest = ", ".join(f"{name} {max(shares):.2g}" for name, shares in alarms.by_quantity.items())
    return _page(
        f"# False alarms: {alarms.num_alarms} in {alarms.num_runs} clean layout-runs",
        f"Rate {alarms.rate:.2%}, at most {alarms.rate_upper_bound:.2%} at 95% confidence "
        f"(Clopper-Pearson, one-sided); {counted(len(seeds), 'seed')}, {seeds[0]} to {seeds[-1]}.",
        f"Judged in parity mode{', and as timed' if alarms.as_timed else ''}, on {_machine(alarms.environment)}.",
        _baselines(alarms),
        *(f"Begun by {_session(session)}." for session in alarms.earlier[:1]),
        *(f"Resumed by {_session(session)}." for session in alarms.earlier[1:]),
        f"{'Resumed' if alarms.earlier else 'Made'} by {_session(alarms)}.",
        f"Largest difference from the baseline, as a share of its bound: {largest}.",
        "![Differences as shares of their bounds](alarms.svg)",
        *(f"- seed {run.seed}, {run.layout}: {run.reason}" for run in alarms.runs if run.status != "passed"),
    )


def _baselines(alarms: Alarms) -> str:
    apart = "Baselines that passed do not count: they were compared with their own variants alone."
    if not alarms.num_baselines:
        return apart
    baselines = counted(alarms.num_baselines, "baseline")
    return f"{apart} {alarms.num_unfit} of {baselines} proved nothing with their seed, so no layout was judged with it."


def _session(session: Session) -> str:
    return f"`{' '.join(session.command)}` (code {session.code_hash[:8]}, scenario {session.scenario_hash[:8]})"


def _machine(environment: Environment) -> str:
    devices = sorted({device.name for device in environment.devices})
    if not devices:
        return "CPU ranks"
    sharers = environment.variables.get(RANKS_PER_GPU)
    shared = f", up to {sharers} ranks on each" if sharers else ""
    return f"{len(environment.devices)} x {', '.join(devices)}{shared}"


def _page(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"


WIDTH, ROW, TOP, LEFT = 720, 34, 40, 130


def plot_alarms(shares: Mapping[str, Sequence[float]]) -> str:
    """Return an SVG: every share as a dot on a logarithmic axis, a row for each quantity, the bound as a line at 1."""
    values = [1.0, *(share for some in shares.values() for share in some)]
    scale = Decades.over(values, start=LEFT + 40, stop=WIDTH - 20, zero=LEFT + 10)
    height = TOP + ROW * len(shares) + 10
    parts = [_axis(scale, height), _bound(scale, height)]
    parts += [_dots(name, some, TOP + ROW * (index + 0.5), scale) for index, (name, some) in enumerate(shares.items())]
    style = Markup(
        "<style>text{{font:12px sans-serif;fill:#444}}line{{stroke:#ccc}}line.bound{{stroke:#b00;stroke-width:2}}"
        "circle{{fill:#26c;fill-opacity:.25}}</style>"
    ).format()
    head = Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}">').format(
        WIDTH, height
    )
    return str(head + style + Markup().join(parts) + Markup("</svg>\n"))


def _axis(scale: Decades, height: float) -> Markup:
    line = Markup('<line x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>')
    number = Markup('<text x="{:.1f}" y="16" text-anchor="middle">{}</text>')
    return Markup().join(
        line.format(place, TOP - 16, height - 10) + number.format(place, text) for place, text in scale.ticks
    )


def _bound(scale: Decades, height: float) -> Markup:
    return Markup(
        '<line class="bound" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"><title>the bound</title></line>'
    ).format(scale(1.0), TOP - 16, height - 10)


def _dots(name: str, shares: Sequence[float], middle: float, scale: Decades) -> Markup:
    dots = Markup().join(
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4"/>').format(scale(share), middle + (index % 7 - 3) * 3)
        for index, share in enumerate(shares)
    )
    return Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 10, middle + 4, name) + dots
