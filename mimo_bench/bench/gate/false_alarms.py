"""How often the gate cries wolf: clean runs over many seeds, every one of which should pass.

Weights and samples differ from seed to seed, so each seed is a fresh draw of rounding. The account is written anew
after every layout: a run that is stopped leaves what it knows, and another one can go on from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.stats import beta

from mimo_bench.bench.attempt import Attempts
from mimo_bench.bench.layout_run import LayoutResult, LayoutRunner
from mimo_bench.bench.request import HANG_SECONDS
from mimo_bench.launch import RANKS_PER_GPU, DeviceKind, Launcher
from mimo_bench.meters import hash_of_code, read_environment
from mimo_bench.parity import Planting
from mimo_bench.record import AsTimed, Difference, Environment, Mode, Parity
from mimo_bench.report import render_alarms
from mimo_bench.scenario import Scenario
from mimo_bench.util import UsageError, counted, write_atomically

ACCOUNT = "alarms.json"
"""The file that another run goes on from."""

CONFIDENCE = 0.95
"""Of the upper bound on the rate."""


class CleanRun(BaseModel):
    """One layout with one seed, without any fault."""

    model_config = ConfigDict(frozen=True)

    seed: int
    layout: str
    status: str
    reason: str
    shares: dict[str, float]
    """Each largest difference from the baseline over its bound, by quantity: 1 is where the gate fails a layout."""


class Sitting(BaseModel):
    """What made a part of an account."""

    model_config = ConfigDict(frozen=True)

    command: tuple[str, ...]
    scenario_hash: str
    code_hash: str
    environment: Environment


class Alarms(Sitting):
    """All clean runs so far, and what they say about the next one; the last sitting's command, code and machine."""

    earlier: tuple[Sitting, ...] = ()
    """Those that it went on from, first to last."""
    as_timed: bool = False
    """Whether layouts had to pass as timed, too."""
    num_runs: int
    """Those that could have failed by mistake: a baseline that passed was held against nothing but its own variants."""
    num_alarms: int
    """Of them, those that did not pass, for whatever reason."""
    rate: float
    rate_upper_bound: float
    """Exact (Clopper-Pearson), one-sided, at 95 % confidence."""
    runs: tuple[CleanRun, ...]


def upper_bound(num_alarms: int, num_runs: int) -> float:
    """The largest rate at which so few alarms in so many runs still have a probability of 5 % (Clopper-Pearson)."""
    if num_alarms >= num_runs:
        return 1.0
    return float(beta.ppf(CONFIDENCE, num_alarms + 1, num_runs - num_alarms))


def count_alarms(
    scenario: Scenario,
    seeds: range,
    *,
    device_kind: DeviceKind,
    directory: Path,
    command: tuple[str, ...],
    on_run: Callable[[CleanRun], None],
    known: Alarms | None = None,
    as_timed: bool = False,
) -> Alarms:
    """Judge every layout of `scenario` with each of `seeds`; leave the account and its plot in `directory`.

    Runs that are `known` are counted and not made again. Those that are judged `as_timed` train once more, in the
    precision and under the settings that are timed.
    """
    runs = [] if known is None else list(known.runs)
    earlier = () if known is None else (*known.earlier, Sitting.model_validate(known.model_dump(include=_SITTING)))
    sitting = Sitting(
        command=command,
        scenario_hash=scenario.content_hash,
        code_hash=hash_of_code(),
        environment=read_environment(device_kind),
    )
    alarms = known
    modes: tuple[Mode, ...] = ("parity", "timing") if as_timed else ("parity",)
    with Launcher(device_kind=device_kind) as launcher:
        for seed in seeds:
            judged = {run.layout for run in runs if run.seed == seed}
            wanted = [name for name in scenario.names if name not in judged]
            if not wanted:
                continue
            place = directory / f"seed{seed}"
            try:
                seeded = _with_seed(scenario, seed)
                attempts = Attempts(
                    launcher,
                    scenario=seeded,
                    directory=place,
                    device_kind=device_kind,
                    hang_seconds=HANG_SECONDS,
                )
                for run in _judge(wanted, seeded, attempts, modes):
                    on_run(run)
                    runs.append(run)
                    alarms = _account(runs, sitting, earlier, as_timed=as_timed)
                    write_account(alarms, directory)
            finally:
                shutil.rmtree(place, ignore_errors=True)
    assert alarms is not None, "at least one seed is asked for"
    return alarms


_SITTING = set(Sitting.model_fields)


def write_account(alarms: Alarms, directory: Path) -> None:
    """Leave what is known, in words and as a plot, too."""
    write_atomically(directory / ACCOUNT, alarms.model_dump_json(indent=1).encode())
    write_atomically(directory / "alarms.md", _render(alarms).encode())
    write_atomically(directory / "alarms.svg", render_alarms(_by_quantity(alarms.runs)).encode())


def read_account(directory: Path, scenario: Scenario, *, as_timed: bool) -> Alarms | None:
    """The account in `directory`, to go on from; None where nothing was left there.

    Raises:
        UsageError: it cannot be read, it has layouts that the scenario lacks, or its layouts were
            judged as timed where these are not to be, or the other way round.
    """
    path = directory / ACCOUNT
    if not path.exists():
        return None
    try:
        known = Alarms.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise UsageError(f"--resume: {path}: is no account to go on from: {error}") from None
    if others := sorted({run.layout for run in known.runs} - set(scenario.names)):
        raise UsageError(
            f"--resume: {path}: is of layouts that the scenario lacks, such as {others[0]!r}; name its own"
        )
    if known.as_timed != as_timed:
        did = "were judged as timed: give --as-timed" if known.as_timed else "were not judged as timed: no --as-timed"
        raise UsageError(f"--resume: {path}: its layouts {did}, or another --out for a new account")
    return known


def _with_seed(scenario: Scenario, seed: int) -> Scenario:
    return Scenario.model_validate({**dict(scenario), "seed": seed})


def _judge(wanted: list[str], scenario: Scenario, attempts: Attempts, modes: tuple[Mode, ...]) -> Iterator[CleanRun]:
    """The layouts that are `wanted`, and the baseline in any case, as they are held against it."""
    runner = LayoutRunner(
        scenario=scenario,
        modes=modes,
        attempts=attempts,
        planting=Planting.of(None),
        on_event=lambda _: None,
    )
    reference = None
    names = (scenario.baseline, *(name for name in scenario.names if name != scenario.baseline))
    for name in names:
        if name not in wanted and name != scenario.baseline:
            continue
        account = runner.run(scenario.case(name), reference)
        reference = reference or account.reference
        if name in wanted:
            yield _clean_run(scenario.seed, name, account)


def _clean_run(seed: int, layout: str, account: LayoutResult) -> CleanRun:
    parity = account.parity
    shares = _shares(parity) if parity is not None and parity.verdict != "baseline" else {}
    reason = account.reason
    if parity is not None and parity.as_timed is not None and account.status == "passed":
        reason += f"; as timed, {parity.as_timed.reason}"
    return CleanRun(seed=seed, layout=layout, status=account.status, reason=reason, shares=shares)


def _shares(parity: Parity) -> dict[str, float]:
    bounds = parity.tolerance
    assert bounds is not None, "what was held against the baseline was held by a tolerance"
    norms = [rel for rel in parity.grad_norm_rel.values() if rel is not None]
    found: Mapping[str, tuple[float | None, float | None]] = {
        "loss": (parity.loss_rel_max, bounds.loss_rel),
        "gradient norm": (max(norms, default=None), bounds.grad_norm_rel),
        "gradient": (_rel(parity.worst_gradient), bounds.gradient_rel),
        "moment": (_rel(parity.worst_moment), bounds.moment_rel),
        "update": (_rel(parity.worst_weight), bounds.update_rel),
    }
    shares = {name: rel / bound for name, (rel, bound) in found.items() if rel is not None and bound}
    return shares if parity.as_timed is None else {**shares, **_shares_as_timed(parity.as_timed)}


def _shares_as_timed(found: AsTimed) -> dict[str, float]:
    band = found.band
    assert band is not None, "what was held against the baseline was held by a band"
    shares = {}
    if found.loss_rel_max is not None and band.loss_rel:
        shares["loss, as timed"] = found.loss_rel_max / band.loss_rel
    norms = [rel for rel in found.grad_norm_rel.values() if rel is not None]
    if norms and band.grad_norm_rel:
        shares["norm, as timed"] = max(norms) / band.grad_norm_rel
    return shares


def _rel(worst: Difference | None) -> float | None:
    return worst.rel if worst is not None else None


def _account(runs: list[CleanRun], sitting: Sitting, earlier: tuple[Sitting, ...], *, as_timed: bool) -> Alarms:
    num_alarms = sum(run.status != "passed" for run in runs)
    # A baseline that passed has no shares, as it was held against nothing.
    num_runs = num_alarms + sum(run.status == "passed" and bool(run.shares) for run in runs)
    return Alarms(
        **dict(sitting),
        earlier=earlier,
        as_timed=as_timed,
        num_runs=num_runs,
        num_alarms=num_alarms,
        rate=num_alarms / max(1, num_runs),
        rate_upper_bound=upper_bound(num_alarms, num_runs),
        runs=tuple(runs),
    )


def _told(sitting: Sitting) -> str:
    return f"`{' '.join(sitting.command)}` (code {sitting.code_hash[:8]}, scenario {sitting.scenario_hash[:8]})"


def _where(environment: Environment) -> str:
    devices = sorted({device.name for device in environment.devices})
    if not devices:
        return "CPU ranks"
    sharers = environment.variables.get(RANKS_PER_GPU)
    shared = f", up to {sharers} ranks on each" if sharers else ""
    return f"{len(environment.devices)} x {', '.join(devices)}{shared}"


def _by_quantity(runs: Sequence[CleanRun]) -> dict[str, list[float]]:
    names = dict.fromkeys(name for run in runs for name in run.shares)
    return {name: [run.shares[name] for run in runs if name in run.shares] for name in names}


def _render(alarms: Alarms) -> str:
    seeds = sorted({run.seed for run in alarms.runs})
    worst = {name: max(shares) for name, shares in _by_quantity(alarms.runs).items()}
    rate = (
        f"Rate {alarms.rate:.2%}, at most {alarms.rate_upper_bound:.2%} at {CONFIDENCE:.0%} confidence "
        f"(Clopper-Pearson, one-sided); {counted(len(seeds), 'seed')}, {seeds[0]} to {seeds[-1]}."
    )
    largest = ", ".join(f"{name} {share:.2g}" for name, share in worst.items())
    lines = [
        f"# False alarms: {alarms.num_alarms} in {alarms.num_runs} clean layout-runs",
        rate,
        f"Judged in parity mode{', and as timed' if alarms.as_timed else ''}, on {_where(alarms.environment)}.",
        "Baselines that passed do not count: they were held against their own variants alone.",
        *(f"Begun by {_told(sitting)}." for sitting in alarms.earlier[:1]),
        *(f"Gone on with by {_told(sitting)}." for sitting in alarms.earlier[1:]),
        f"{'Gone on with' if alarms.earlier else 'Made'} by {_told(alarms)}.",
        f"Largest difference from the baseline, as a share of its bound: {largest}.",
        "![Differences as shares of their bounds](alarms.svg)",
        *(f"- seed {run.seed}, {run.layout}: {run.reason}" for run in alarms.runs if run.status != "passed"),
    ]
    return "\n\n".join(lines) + "\n"
