"""False alarms: clean layouts with many seeds, each of which should pass.

Weights and samples differ from seed to seed, so each seed draws other rounding errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import batched
from pathlib import Path

from pydantic import TypeAdapter
from scipy.stats import binomtest

from mimo_bench.bench.attempt import Training, launch_together
from mimo_bench.bench.gate.campaign import AccountFile, Campaign
from mimo_bench.bench.layout_run import LayoutResult
from mimo_bench.meters import hash_of_code, read_environment
from mimo_bench.parity import parity_variants, rounded_variants
from mimo_bench.record import Alarms, AsTimed, CleanRun, Difference, Mode, Parity, Session
from mimo_bench.report import plot_alarms, render_alarms
from mimo_bench.scenario import Scenario
from mimo_bench.util import UsageError

CONFIDENCE = 0.95
"""Confidence of the upper bound on the rate."""

SEEDS_AT_ONCE = 4
"""Seeds that share launches. The baseline of each keeps four copies of the model on disk meanwhile."""

ALARMS = AccountFile(
    name="alarms",
    content=TypeAdapter(Alarms),
    pages=lambda alarms: {"md": render_alarms(alarms), "svg": plot_alarms(alarms.by_quantity)},
)


def upper_bound(num_alarms: int, num_runs: int) -> float:
    """Return the largest rate at which `num_alarms` or fewer still have a probability of 5 % (Clopper-Pearson)."""
    interval = binomtest(num_alarms, num_runs, alternative="less").proportion_ci(CONFIDENCE, method="exact")
    return float(interval.high)


def count_alarms(
    campaign: Campaign,
    scenario: Scenario,
    seeds: range,
    *,
    on_run: Callable[[CleanRun], None],
    known: Alarms | None = None,
    as_timed: bool = False,
) -> Alarms:
    """Judge every layout of `scenario` with each of `seeds`, and leave the account in the campaign's directory.

    Runs that are `known` are counted and not made again. Layouts that are judged `as_timed` train once more, in the
    precision and under the settings that are timed.
    """
    session = Session(
        command=campaign.command,
        scenario_hash=scenario.content_hash,
        code_hash=hash_of_code(),
        environment=read_environment(campaign.device_kind),
    )
    earlier = () if known is None else (*known.earlier, Session.model_validate(known.model_dump(include=_SESSION)))
    alarms = known
    modes: tuple[Mode, ...] = ("parity", "timing") if as_timed else ("parity",)
    runs = [] if known is None else list(known.runs)
    judged = {(run.seed, run.layout) for run in runs}
    # With a baseline that proves nothing no layout is judged.
    unfit = [run.seed for run in runs if run.is_baseline and run.status != "passed"]
    judged |= {(seed, name) for seed in unfit for name in scenario.names}
    for run in _judge(campaign, scenario, seeds, modes, judged):
        runs.append(run)
        alarms = _account(runs, session, earlier, as_timed=as_timed)
        ALARMS.write(campaign.directory, alarms)
        on_run(run)
    assert alarms is not None, "there is at least one seed"
    return alarms


_SESSION = set(Session.model_fields)


def read_account(directory: Path, scenario: Scenario, *, as_timed: bool) -> Alarms | None:
    """Return the account in `directory`, to resume; None if there is none.

    Raises:
        UsageError: it cannot be read, it has layouts that the scenario lacks, or its layouts were judged as timed and
            these will not be, or the other way round.
    """
    if (known := ALARMS.read(directory)) is None:
        return None
    path = directory / "alarms.json"
    if others := sorted({run.layout for run in known.runs} - set(scenario.names)):
        raise UsageError(f"--resume: {path}: the scenario has no layout {others[0]!r}; name the account's scenario")
    if known.as_timed != as_timed:
        did = "were judged as timed: give --as-timed" if known.as_timed else "were not judged as timed: no --as-timed"
        raise UsageError(f"--resume: {path}: its layouts {did}, or another --out for a new account")
    return known


def _judge(
    campaign: Campaign,
    scenario: Scenario,
    seeds: range,
    modes: tuple[Mode, ...],
    judged: set[tuple[int, str]],
) -> Iterator[CleanRun]:
    """Yield the runs that are not `judged` yet; baselines are trained in any case, to compare with.

    A layout with several seeds takes one launch: its process groups stay.
    """
    names = (scenario.baseline, *(name for name in scenario.names if name != scenario.baseline))
    due = [seed for seed in seeds if any((seed, name) not in judged for name in names)]
    with campaign.launcher() as launcher:
        for some in batched(due, SEEDS_AT_ONCE):
            with ExitStack() as stack:
                benches = {
                    seed: stack.enter_context(campaign.bench(launcher, _with_seed(scenario, seed), f"seed{seed}"))
                    for seed in some
                }
                for name in names:
                    trained = [seed for seed in some if name == scenario.baseline or (seed, name) not in judged]
                    by_seed = (_trainings(benches[seed].scenario, name, modes) for seed in trained)
                    for alike in zip(*by_seed, strict=True):
                        attempts = (benches[seed].attempts for seed in trained)
                        launch_together(list(zip(attempts, alike, strict=True)))
                    for seed in trained:
                        result = benches[seed].judge(name, modes=modes)
                        if (seed, name) not in judged:
                            yield _clean_run(seed, name, result, is_baseline=name == scenario.baseline)
                    # Nothing can be compared with a baseline that proves nothing.
                    some = tuple(seed for seed in some if benches[seed].reference is not None)


def _trainings(scenario: Scenario, layout: str, modes: Sequence[Mode]) -> Iterator[Training]:
    """Yield the trainings that judge a layout, with the variants of a baseline; of the same grids for every seed."""
    case = scenario.case(layout)
    for mode in modes:
        yield Training(case=case, mode=mode)
        if case.is_baseline:
            for variant in (parity_variants if mode == "parity" else rounded_variants)(scenario):
                yield Training(case=case, mode=mode, variant=variant)


def _with_seed(scenario: Scenario, seed: int) -> Scenario:
    return Scenario.model_validate({**dict(scenario), "seed": seed})


def _clean_run(seed: int, layout: str, result: LayoutResult, *, is_baseline: bool) -> CleanRun:
    parity = result.parity
    shares = _shares(parity) if parity is not None and not is_baseline else {}
    reason = result.reason
    if parity is not None and parity.as_timed is not None and result.status == "passed":
        reason += f"; as timed, {parity.as_timed.reason}"
    return CleanRun(
        seed=seed, layout=layout, is_baseline=is_baseline, status=result.status, reason=reason, shares=shares
    )


def _shares(parity: Parity) -> dict[str, float]:
    bounds = parity.tolerance
    assert bounds is not None, "a layout is compared with the baseline by a tolerance"
    found: Mapping[str, tuple[float | None, float | None]] = {
        "loss": (parity.loss_rel_max, bounds.loss_rel),
        "gradient norm": (_largest(parity.grad_norm_rel), bounds.grad_norm_rel),
        "gradient": (_rel(parity.worst_gradient), bounds.gradient_rel),
        "moment": (_rel(parity.worst_moment), bounds.moment_rel),
        "update": (_rel(parity.worst_weight), bounds.update_rel),
        "update along the weights": (_rel(parity.worst_along_weights), bounds.along_rel),
        "update by all steps": _own(parity.worst_late_update),
    }
    return _over(found) | ({} if parity.as_timed is None else _shares_as_timed(parity.as_timed))


def _shares_as_timed(found: AsTimed) -> dict[str, float]:
    band = found.band
    assert band is not None, "a layout is compared with the baseline by a band"
    return _over(
        {
            "loss, as timed": (found.loss_rel_max, band.loss_rel),
            "norm, as timed": (_largest(found.grad_norm_rel), band.grad_norm_rel),
            "gradient, as timed": _own(found.worst_gradient),
            "update, as timed": _own(found.worst_late_update),
        }
    )


def _over(found: Mapping[str, tuple[float | None, float | None]]) -> dict[str, float]:
    return {name: rel / bound for name, (rel, bound) in found.items() if rel is not None and bound}


def _largest(errors: Mapping[str, float | None]) -> float | None:
    return max((error for error in errors.values() if error is not None), default=None)


def _own(worst: Difference | None) -> tuple[float | None, float | None]:
    """Return a difference and the bound of its parameter."""
    return (None, None) if worst is None else (worst.rel, worst.bound)


def _rel(worst: Difference | None) -> float | None:
    return worst.rel if worst is not None else None


def _account(runs: list[CleanRun], session: Session, earlier: tuple[Session, ...], *, as_timed: bool) -> Alarms:
    baselines = [run for run in runs if run.is_baseline]
    compared = [run for run in runs if not run.is_baseline]
    num_runs, num_alarms = len(compared), sum(run.status != "passed" for run in compared)
    return Alarms(
        **dict(session),
        earlier=earlier,
        as_timed=as_timed,
        num_runs=num_runs,
        num_alarms=num_alarms,
        num_baselines=len(baselines),
        num_unfit=sum(run.status != "passed" for run in baselines),
        rate=num_alarms / max(1, num_runs),
        rate_upper_bound=upper_bound(num_alarms, num_runs) if num_runs else 1.0,
        runs=tuple(runs),
    )
