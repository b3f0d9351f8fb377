"""Selftest: every known fault is planted and must be caught by its check, and the clean layouts must pass.

A fault that no layout of the scenario shows is planted in the companion, a scenario of two tiny modules. The baseline
of each is compared with `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from mimo_bench.bench.attempt import BASELINE
from mimo_bench.bench.gate.campaign import AccountFile, Campaign, TestBench
from mimo_bench.bench.gate.reference import compare_baseline
from mimo_bench.bench.layout_run import LayoutResult
from mimo_bench.launch import Launcher
from mimo_bench.parity import KNOWN, SLOW, Site, find_fault, known_faults
from mimo_bench.record import Finding, HeldBaseline, Mode, Origin, Selftest, Trial
from mimo_bench.report import render_selftest
from mimo_bench.scenario import Scenario, load_scenario

COMPANION = Path(__file__).with_name("companion.toml")
"""Scenario that shows every fault."""

SELFTEST_HANG_SECONDS = 30.0
"""Silence that counts as a hang; one of the faults hangs a rank."""

SELFTEST = AccountFile(
    name="selftest", content=TypeAdapter(Selftest), pages=lambda selftest: {"md": render_selftest(selftest)}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Faults that are planted in layouts of one scenario."""

    origin: Origin
    scenario: Scenario
    layouts: dict[str, str]
    """Layout of each fault."""

    def modes(self, layout: str) -> tuple[Mode, ...]:
        """Return the modes in which a clean layout must pass: those that show the faults planted in it."""
        is_baseline = layout == self.scenario.baseline
        of_faults = [KNOWN[fault].modes for fault, its in self.layouts.items() if is_baseline or its == layout]
        return max(of_faults, key=len, default=("parity",))

    @property
    def faults(self) -> dict[str, list[str | None]]:
        """Trials by layout: clean, then with each fault."""
        trials: dict[str, list[str | None]] = {self.scenario.baseline: [None]}
        for fault, layout in self.layouts.items():
            trials.setdefault(layout, [None]).append(fault)
        return trials


def plan_selftest(scenario: Scenario | None, *, num_ranks: int | None = None) -> tuple[Part, ...]:
    """Choose a layout for every fault: the smallest that shows it, of the scenario or else of the companion.

    Without a scenario all are of the companion. With `num_ranks`, faults whose layouts need more ranks are left out.
    """
    companion = load_scenario(COMPANION)
    if scenario is None:
        layouts = choose_layouts(companion, KNOWN, num_ranks=num_ranks)
        return (Part(origin="companion", scenario=companion, layouts=layouts),)
    own = choose_layouts(scenario, KNOWN, num_ranks=num_ranks)
    others = choose_layouts(companion, (fault for fault in KNOWN if fault not in own), num_ranks=num_ranks)
    parts = (
        Part(origin="given", scenario=scenario, layouts=own),
        Part(origin="companion", scenario=companion, layouts=others),
    )
    # The baseline of the scenario is tried even if none of its layouts shows a fault.
    return parts if others else parts[:1]


def choose_layouts(scenario: Scenario, faults: Iterable[str], *, num_ranks: int | None = None) -> dict[str, str]:
    """Return the smallest layout of `scenario`, never the baseline, for each of `faults` that one of them shows."""
    sites = {name: Site.of(scenario, name) for name in scenario.names if name != scenario.baseline}
    by_size = sorted(sites, key=lambda name: (sites[name].layout.world_size, name))
    fitting = [name for name in by_size if num_ranks is None or sites[name].layout.world_size <= num_ranks]
    chosen = {fault: next((name for name in fitting if KNOWN[fault].shows_in(sites[name])), None) for fault in faults}
    return {fault: name for fault, name in chosen.items() if name is not None}


def list_faults(parts: Iterable[Part]) -> list[str]:
    """Return a line for every fault that can be planted: the check that must catch it, and its layout."""
    places = {
        fault: layout if part.origin == "given" else f"{layout} of {COMPANION}"
        for part in parts
        for fault, layout in part.layouts.items()
    }
    return [f"{fault}: {_caught(fault, places.get(fault))}" for fault in sorted(known_faults())]


def _caught(fault: str, place: str | None) -> str:
    """Return the check and the layout of a fault, or why the selftest does not plant it."""
    if fault in SLOW:
        return "by no check, as training stays right; the meters and `run --gate-performance` show it"
    if fault not in KNOWN:
        return "another package's, which alone knows its check; `run --plant` plants it"
    return f"{KNOWN[fault].caught_by}, in {place or 'no layout that the ranks here can hold'}"


def left_out(parts: Iterable[Part]) -> list[str]:
    """Return the faults whose layouts need more ranks than there are."""
    return sorted(set(KNOWN) - {fault for part in parts for fault in part.layouts})


def run_selftest(
    campaign: Campaign,
    parts: Sequence[Part],
    *,
    on_finding: Callable[[Finding], None],
    earlier: Selftest | None = None,
) -> Selftest:
    """Plant every fault in its layout, and leave the account in the campaign's directory.

    Trials of `earlier` are not run again; those that are no longer planned are dropped.
    """
    num_planned = sum(len(faults) for part in parts for faults in part.faults.values())
    known = {(one.scenario, one.layout, one.fault): one for one in (earlier.trials if earlier is not None else ())}
    selftest = Selftest(command=campaign.command, trials=(), baselines=(), num_planned=num_planned)
    with campaign.launcher() as launcher:
        for finding in (one for part in parts for one in try_part(campaign, part, launcher, known)):
            kind = "trials" if isinstance(finding, Trial) else "baselines"
            selftest = selftest.model_copy(update={kind: (*getattr(selftest, kind), finding)})
            SELFTEST.write(campaign.directory, selftest)
            on_finding(finding)
    return selftest


def try_part(
    campaign: Campaign, part: Part, launcher: Launcher, known: Mapping[tuple[Origin, str, str | None], Trial]
) -> Iterator[Finding]:
    """Yield the baseline, its comparison with `transformers`, and for each layout the clean one and its faults."""
    # Layouts of the two scenarios may have the same names.
    folder = "." if part.origin == "given" else part.origin
    scenario = part.scenario
    with campaign.bench(launcher, scenario, folder, keeps_logs=True) as bench:
        baseline = bench.judge(scenario.baseline, modes=part.modes(scenario.baseline))
        yield _trial(part, scenario.baseline, None, baseline)
        if bench.reference is not None:
            loss = bench.reference.trained.losses[0]
            assert loss is not None, "a baseline whose loss is not finite is no reference"
            held = compare_baseline(
                launcher,
                scenario,
                loss=loss,
                baseline=bench.directory / BASELINE,
                place=bench.directory / "oracle",
                device_kind=campaign.device_kind,
            )
            yield HeldBaseline(scenario=part.origin, layout=scenario.baseline, model=scenario.model, held=held)
        for layout, faults in part.faults.items():
            if layout != scenario.baseline:
                due = [fault for fault in faults if (part.origin, layout, fault) not in known]
                yield from (known[part.origin, layout, fault] for fault in faults if fault not in due)
                yield from _try_layout(part, bench, layout, due)


def _try_layout(part: Part, bench: TestBench, layout: str, faults: Sequence[str | None]) -> Iterator[Trial]:
    together = [find_fault(fault) for fault in faults if fault is not None and not KNOWN[fault].alone]
    clean = bench.share_launch(layout, together) if together and bench.reference is not None else None
    modes = part.modes(layout)
    for fault in faults:
        if fault is not None:
            result = bench.judge(layout, find_fault(fault), modes=KNOWN[fault].modes)
        elif clean is not None and modes == ("parity",):
            result = clean
        else:
            result = bench.judge(layout, modes=modes)
        yield _trial(part, layout, fault, result)


def _trial(part: Part, layout: str, fault: str | None, result: LayoutResult) -> Trial:
    failed = result.parity.failed_check if result.parity is not None else None
    return Trial(
        scenario=part.origin,
        fault=fault,
        layout=layout,
        expected=(None if fault is None else KNOWN[fault].caught_by) or "passed",
        found=failed or result.status,
        reason=result.reason,
    )
