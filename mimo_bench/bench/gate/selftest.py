"""The gate proves itself: every known fault is planted, each must be caught by its check, and the clean runs must pass.

What the scenario at hand cannot show is planted in a companion scenario of two tiny modules. The baseline of each
proves itself too, against `transformers`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mimo_bench.bench.attempt import BASELINE, Attempts
from mimo_bench.bench.gate.reference import hold_baseline
from mimo_bench.bench.layout_run import LayoutResult, LayoutRunner, Reference
from mimo_bench.launch import DeviceKind, Launcher
from mimo_bench.parity import KNOWN, SLOW, Planting, Site, find_fault, known_faults
from mimo_bench.record import Mode
from mimo_bench.report import Finding, HeldBaseline, Origin, Selftest, Trial, render
from mimo_bench.scenario import Scenario, load_scenario
from mimo_bench.util import write_atomically

COMPANION = Path(__file__).with_name("companion.toml")
"""The scenario that shows every fault which another one may lack the layouts for."""

SELFTEST_HANG_SECONDS = 30.0
"""Silence that counts as a hang here: one of the faults is a rank that hangs, and it is waited for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The faults that are planted in layouts of one scenario."""

    origin: Origin
    scenario: Scenario
    layouts: dict[str, str]
    """By fault."""

    def modes(self, layout: str) -> tuple[Mode, ...]:
        """The modes in which a layout must pass without a fault: those in which faults of its own show."""
        is_baseline = layout == self.scenario.baseline
        of_faults = [KNOWN[fault].modes for fault, its in self.layouts.items() if is_baseline or its == layout]
        return max(of_faults, key=len, default=("parity",))


def plan_selftest(scenario: Scenario | None, *, num_ranks: int | None = None) -> tuple[Part, ...]:
    """A layout for every fault: the smallest of the scenario's in which it shows, or else of the companion's.

    Without a scenario all are the companion's. With `num_ranks`, faults whose layouts need more ranks are left out.
    """
    if scenario is None:
        companion = load_scenario(COMPANION)
        layouts = choose_layouts(companion, KNOWN, num_ranks=num_ranks)
        return (Part(origin="companion", scenario=companion, layouts=layouts),)
    own = choose_layouts(scenario, KNOWN, num_ranks=num_ranks)
    companion = load_scenario(COMPANION)
    others = choose_layouts(companion, (fault for fault in KNOWN if fault not in own), num_ranks=num_ranks)
    parts = (
        Part(origin="given", scenario=scenario, layouts=own),
        Part(origin="companion", scenario=companion, layouts=others),
    )
    # The scenario's own baseline is tried whatever its layouts show.
    return parts if others else parts[:1]


def choose_layouts(scenario: Scenario, faults: Iterable[str], *, num_ranks: int | None = None) -> dict[str, str]:
    """The smallest layout of `scenario`, never the baseline, for each of `faults` that one with `num_ranks` shows."""
    sites = {name: Site.of(scenario, name) for name in scenario.names if name != scenario.baseline}
    by_size = sorted(sites, key=lambda name: (sites[name].layout.world_size, name))
    fitting = [name for name in by_size if num_ranks is None or sites[name].layout.world_size <= num_ranks]
    chosen = {fault: next((name for name in fitting if KNOWN[fault].shows_in(sites[name])), None) for fault in faults}
    return {fault: name for fault, name in chosen.items() if name is not None}


def list_faults(parts: Iterable[Part]) -> list[str]:
    """A line for every fault that can be planted: the check that must catch it, and where it is planted."""
    places = {
        fault: layout if part.origin == "given" else f"{layout} of {COMPANION}"
        for part in parts
        for fault, layout in part.layouts.items()
    }
    return [f"{fault}: {_caught(fault, places.get(fault))}" for fault in sorted(known_faults())]


def _caught(fault: str, place: str | None) -> str:
    """By which check a fault is caught, and where; or why the selftest does not plant it."""
    if fault in SLOW:
        return "by no check, as training stays right; the meters and `run --gate-performance` show it"
    if fault not in KNOWN:
        return "another package's, which alone knows its check; `run --plant` plants it"
    return f"{KNOWN[fault].caught_by}, in {place or 'no layout that the ranks here can hold'}"


def left_out(parts: Iterable[Part]) -> list[str]:
    """The faults that no layout with so few ranks shows."""
    return sorted(set(KNOWN) - {fault for part in parts for fault in part.layouts})


def run_selftest(
    parts: Iterable[Part],
    *,
    device_kind: DeviceKind,
    directory: Path,
    command: tuple[str, ...],
    on_finding: Callable[[Finding], None],
) -> Selftest:
    """Plant every fault in its layout; leave `selftest.md` and `selftest.json` in `directory`."""
    found: list[Finding] = []
    with Launcher(device_kind=device_kind) as launcher:
        for part in parts:
            # Layouts of the two may have the same names.
            place = directory if part.origin == "given" else directory / part.origin
            try:
                for finding in try_part(part, launcher, device_kind=device_kind, directory=place):
                    on_finding(finding)
                    found.append(finding)
            finally:
                # As large as the model, also where somebody stops the selftest half-way.
                shutil.rmtree(place / BASELINE, ignore_errors=True)
    selftest = Selftest(
        command=command,
        trials=tuple(one for one in found if isinstance(one, Trial)),
        baselines=tuple(one for one in found if isinstance(one, HeldBaseline)),
    )
    write_atomically(directory / "selftest.json", selftest.model_dump_json(indent=1).encode())
    write_atomically(directory / "selftest.md", render(selftest).encode())
    return selftest


def try_part(part: Part, launcher: Launcher, *, device_kind: DeviceKind, directory: Path) -> Iterator[Finding]:
    """The baseline and what `transformers` says of it, every layout that is used without a fault, then every fault."""
    scenario = part.scenario
    attempts = Attempts(
        launcher, scenario=scenario, directory=directory, device_kind=device_kind, hang_seconds=SELFTEST_HANG_SECONDS
    )
    baseline = _run(part, attempts, scenario.baseline, None, None)
    yield _trial(part, None, scenario.baseline, baseline)
    if baseline.reference is not None:
        loss = baseline.reference.trained.losses[0]
        assert loss is not None, "a baseline whose loss is not finite is no reference"
        held = hold_baseline(
            launcher,
            scenario,
            loss=loss,
            baseline=directory / BASELINE,
            place=directory / "oracle",
            device_kind=device_kind,
        )
        yield HeldBaseline(scenario=part.origin, layout=scenario.baseline, model=scenario.model, held=held)
    for layout in dict.fromkeys(part.layouts.values()):
        yield _trial(part, None, layout, _run(part, attempts, layout, None, baseline.reference))
    for fault, layout in part.layouts.items():
        yield _trial(part, fault, layout, _run(part, attempts, layout, fault, baseline.reference))


def _run(part: Part, attempts: Attempts, layout: str, fault: str | None, reference: Reference | None) -> LayoutResult:
    runner = LayoutRunner(
        scenario=part.scenario,
        modes=part.modes(layout) if fault is None else KNOWN[fault].modes,
        attempts=attempts,
        planting=Planting(fault=find_fault(fault) if fault is not None else None, layout=layout),
        on_event=lambda _: None,
        second_pass=False,
    )
    return runner.run(part.scenario.case(layout), reference)


def _trial(part: Part, fault: str | None, layout: str, account: LayoutResult) -> Trial:
    failed = account.parity.failed_check if account.parity is not None else None
    return Trial(
        scenario=part.origin,
        fault=fault,
        layout=layout,
        expected=(None if fault is None else KNOWN[fault].caught_by) or "passed",
        found=failed or account.status,
        reason=account.reason,
    )
