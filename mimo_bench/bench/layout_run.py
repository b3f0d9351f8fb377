"""One layout from start to verdict: parity first, then, if it trains the same model, its timing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from mimo_bench.bench.attempt import Attempt, Attempts
from mimo_bench.bench.ledger import describe
from mimo_bench.models import mfu, model_flops, unknown_encoders
from mimo_bench.parity import (
    Asked,
    Place,
    Planting,
    Variant,
    first_difference,
    judge,
    judge_as_timed,
    judge_baseline,
    judge_baseline_as_timed,
    judge_noise,
    noise_of,
    parity_variants,
    rounded_variants,
)
from mimo_bench.predict import predict_memory
from mimo_bench.record import Account as RecordedAccount
from mimo_bench.record import (
    AsTimed,
    Check,
    LayoutRecord,
    Mode,
    Parity,
    RankRecord,
    Status,
    Timing,
    Tolerance,
    Trained,
    VariantName,
    imbalance,
    merge_account,
    merge_communication,
    merge_comparing,
    merge_energy,
    merge_loading,
    merge_memory,
    merge_modules,
    merge_timing,
    merge_training,
    merge_unmeasured,
    slowest_rank_seconds,
)
from mimo_bench.report import LayoutStarted, OnEvent
from mimo_bench.scenario import Scenario

_SHOWN_BY_A_TRACE: Final[tuple[Check, ...]] = ("gradients", "sound", "optimizer", "steps")
"""Failed checks after which a second pass over the first step can say more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The baseline's training, which every other layout is held against."""

    trained: Trained
    """In parity mode; as timed where parity is not asked for."""
    tolerance: Tolerance
    """How far equal trainings lie apart then."""
    timed: Trained | None = None
    """Under its timed settings; None where nothing is timed."""
    band: Tolerance | None = None
    """How far equal trainings lie apart under those settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What is known of a layout so far."""

    status: Status
    reason: str
    trained: Trained | None = None
    parity: Parity | None = None
    reference: Reference | None = None
    """What others can be held against; None unless this is a sound baseline."""
    attempts: tuple[Attempt, ...] = ()
    repeats: tuple[Attempt, ...] = ()
    """Further timing launches, of which only the median step counts."""

    def ranks_in(self, mode: Mode) -> tuple[RankRecord, ...]:
        """Every rank's record of `mode`; none where the mode did not finish."""
        return tuple(rank for attempt in self.attempts for rank in attempt.ranks if rank.mode == mode)

    @property
    def ranks(self) -> tuple[RankRecord, ...]:
        """Every rank's record, of all modes that finished."""
        return tuple(rank for attempt in self.attempts for rank in attempt.ranks)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutRunner:
    """Runs one layout after the other on the same warm launcher."""

    scenario: Scenario
    modes: tuple[Mode, ...]
    attempts: Attempts
    planting: Planting
    on_event: OnEvent
    num_timing_launches: int = 1
    second_pass: bool = True
    """Whether a layout that fails in its steps is trained once more, to name what differs first."""

    def run(self, name: str, reference: Reference | None) -> Account:
        """Judge and time the layout called `name`; a layout that trains another model is not worth timing."""
        account = Account(status="unjudged", reason="parity was not asked for")
        if "parity" in self.modes:
            account = self._judge(name, reference)
        if "timing" in self.modes and account.status in ("passed", "unjudged"):
            account = self._time(name, account, reference)
            account = self._time_again(name, account)
        if "comm" in self.modes and account.status in ("passed", "unjudged"):
            account = self._count_communication(name, account)
        return account

    def record(self, name: str, account: Account) -> LayoutRecord:
        """The layout's entry in the record."""
        known: dict[str, Any] = {
            "launches": tuple(
                attempt.launch for attempt in (*account.attempts, *account.repeats) if attempt.launch is not None
            )
        }
        if (trained := account.trained) is not None:
            compared = slice(self.scenario.steps.parity)
            known["losses"] = trained.losses[compared]
            known["grad_norms"] = {module: norms[compared] for module, norms in trained.grad_norms.items()}
            known["evaluation"] = trained.evaluation
        known["parity"] = account.parity
        known["comparing"] = merge_comparing(account.ranks_in("parity"))
        watched = account.ranks_in("comm")
        known["account"] = merge_account(watched)
        known["communication"] = merge_communication(watched)
        if timed := account.ranks_in("timing"):
            known["timing"] = with_repeats(measure(self.scenario, timed, known["account"]), account.repeats)
            known["memory"] = merge_memory(timed, self._predicted_peaks(name))
            known["energy"] = merge_energy(timed)
            known["loading"] = merge_loading(timed)
            known["imbalance"] = imbalance(timed)
        if account.ranks:
            known["skipped_samples"] = account.ranks[0].skipped_samples
        known["unmeasured"] = merge_unmeasured(account.ranks)
        return describe(self.scenario, name, status=account.status, reason=account.reason, known=known)

    def _predicted_peaks(self, name: str) -> dict[int, int]:
        """By rank; nothing where a module is another package's."""
        if unknown_encoders(self.scenario.shape):
            return {}
        peaks = {one.rank: one.peak_bytes for one in predict_memory(self.scenario, name)}
        return {rank: peak for rank, peak in peaks.items() if peak is not None}

    def _judge(self, name: str, reference: Reference | None) -> Account:
        if reference is None and not self._is_baseline(name):
            return Account(
                status="unjudged",
                reason=f"the baseline {self.scenario.baseline} gave nothing to be held against; see its reason",
            )
        attempt = self._attempt(name, "parity")
        if not attempt.finished:
            return _ended_early(attempt)
        trained = merge_training(attempt.ranks, num_parity_steps=self.scenario.steps.parity)
        asked = self._asked_of(name)
        if reference is not None:
            parity = judge(trained, reference.trained, asked, reference.tolerance)
            return self._localise(name, _judged(parity, trained, attempt))
        return self._measure_noise(name, _judged(judge_baseline(trained, asked), trained, attempt))

    def _localise(self, name: str, account: Account) -> Account:
        """Where a layout whose steps are wrong first leaves the baseline, by a second pass over the first of them."""
        if not self.second_pass or account.parity is None or account.parity.failed_check not in _SHOWN_BY_A_TRACE:
            return account
        baseline = self.attempts.trace(self.scenario.baseline, fault=None)
        found = self.attempts.trace(name, fault=self.planting.in_layout(name))
        if baseline is None or found is None:
            return account
        place = first_difference(found, baseline)
        return replace(account, parity=account.parity.model_copy(update={"first_difference": place}))

    def _measure_noise(self, name: str, account: Account) -> Account:
        """Train the baseline's variants in parity mode; what others can be held against is then complete."""
        assert account.parity is not None
        assert account.trained is not None
        if account.status != "passed":
            return account
        noise, too_large = [], []
        for variant in parity_variants(self.scenario):
            attempt = self._attempt(name, "parity", variant)
            if attempt.outcome.ended == "oom":
                too_large.append(variant.name)
                continue
            if not attempt.finished:
                return _cut_short(account, attempt)
            trained = merge_training(attempt.ranks, num_parity_steps=self.scenario.steps.parity)
            if (problem := trained.mismatch or trained.disagreement) is not None:
                return _unfit(account, variant.name, problem)
            noise.append(noise_of(variant.name, trained, account.trained, num_steps=self.scenario.steps.parity))
        parity = judge_noise(account.parity, noise)
        parity = parity.model_copy(update={"reason": parity.reason + _without(too_large)})
        judged = replace(account, parity=parity, reason=parity.reason)
        if parity.tolerance is None:
            return replace(judged, status="parity_failed")
        return replace(judged, reference=Reference(trained=account.trained, tolerance=parity.tolerance))

    def _time(self, name: str, account: Account, reference: Reference | None) -> Account:
        attempt = self._attempt(name, "timing")
        if not attempt.finished:
            return _cut_short(account, attempt)
        timed = replace(account, attempts=(*account.attempts, attempt))
        trained = merge_training(attempt.ranks, num_parity_steps=self.scenario.steps.num_as_timed)
        if "parity" not in self.modes:
            timed = replace(timed, parity=Parity(verdict="unjudged", reason=account.reason))
        if self._is_baseline(name):
            return self._measure_band(name, timed, trained)
        return _judge_as_timed(timed, trained, reference, num_steps=self.scenario.steps.num_as_timed)

    def _time_again(self, name: str, account: Account) -> Account:
        """Launch and time a layout that passed some more times: ranks never start twice in quite the same place."""
        for repeat in range(1, self.num_timing_launches):
            if account.status not in ("passed", "unjudged"):
                break
            attempt = self._attempt(name, "timing", repeat=repeat)
            account = (
                replace(account, repeats=(*account.repeats, attempt))
                if attempt.finished
                else _cut_short(account, attempt)
            )
        return account

    def _measure_band(self, name: str, account: Account, timed: Trained) -> Account:
        """Train the baseline's variants and let their spread say what a difference means."""
        num_steps = self.scenario.steps.num_as_timed
        variants, too_large = {}, []
        for variant in rounded_variants(self.scenario):
            attempt = self._attempt(name, "timing", variant)
            if attempt.outcome.ended == "oom":
                too_large.append(variant.name)
                continue
            if not attempt.finished:
                return _cut_short(account, attempt)
            variants[variant.name] = merge_training(attempt.ranks, num_parity_steps=num_steps)
        as_timed = judge_baseline_as_timed(timed, variants, precision=self.scenario.precision, num_steps=num_steps)
        as_timed = as_timed.model_copy(update={"reason": as_timed.reason + _without(too_large)})
        judged = _with_as_timed(account, as_timed)
        if as_timed.band is None:
            return replace(judged, reference=None)
        reference = account.reference or Reference(trained=timed, tolerance=as_timed.band)
        return replace(judged, reference=replace(reference, timed=timed, band=as_timed.band))

    def _count_communication(self, name: str, account: Account) -> Account:
        attempt = self._attempt(name, "comm")
        if not attempt.finished:
            return _cut_short(account, attempt)
        return replace(account, attempts=(*account.attempts, attempt))

    def _attempt(self, name: str, mode: Mode, variant: Variant | None = None, repeat: int = 0) -> Attempt:
        self.on_event(LayoutStarted(name=name, mode=mode))
        fault = None if self._is_baseline(name) else self.planting.in_layout(name)
        return self.attempts.run(name, mode, fault=fault, variant=variant, repeat=repeat)

    def _asked_of(self, name: str) -> Asked:
        plan = self.scenario.batch_plan(name)
        return Asked(
            num_steps=self.scenario.steps.parity,
            min_answer_accuracy=self.scenario.evaluation.min_answer_accuracy,
            place=Place(
                grids=self.scenario.table(name).grids().modules,
                counts={
                    "micro-batches": plan.num_micro_batches,
                    "samples of the global batch": plan.global_batch_size,
                    "samples of a micro-batch": plan.global_micro_batch_size,
                },
            ),
        )

    def _is_baseline(self, name: str) -> bool:
        return name == self.scenario.baseline


def with_repeats(timing: Timing, repeats: Sequence[Attempt]) -> Timing:
    """The timing of the first launch with the medians of all."""
    again = (median(slowest_rank_seconds(attempt.ranks)) for attempt in repeats)
    return timing.model_copy(update={"launch_medians": (timing.step_seconds_median, *again)})


def _without(variants: Sequence[VariantName]) -> str:
    """What a reason says besides of variants of the baseline that need more memory than it does."""
    return f"; without {' and '.join(variants)}, for which there was no memory" if variants else ""


def _judged(parity: Parity, trained: Trained, attempt: Attempt) -> Account:
    return Account(
        status="parity_failed" if parity.verdict == "failed" else "passed",
        reason=parity.reason,
        trained=trained,
        parity=parity,
        attempts=(attempt,),
    )


def _unfit(account: Account, variant: VariantName, problem: str) -> Account:
    """A baseline one of whose variants is no training to compare with."""
    assert account.parity is not None
    reason = f"the baseline proves nothing: its variant {variant}: {problem}"
    failed = {"verdict": "failed", "reason": reason, "failed_check": "sound"}
    return replace(account, status="parity_failed", reason=reason, parity=account.parity.model_copy(update=failed))


def measure(scenario: Scenario, ranks: Sequence[RankRecord], account: RecordedAccount | None = None) -> Timing:
    """Timing of the job, with what the model's arithmetic makes of it and, from comm mode, where its time goes."""
    timing = merge_timing(ranks, global_batch_size=scenario.global_batch_size)
    num_timed, first = len(timing.step_seconds), ranks[0]
    by_module = model_flops(
        scenario.shape,
        num_items={module: sum(items[-num_timed:]) for module, items in first.items.items()},
        num_tokens=sum(first.tokens[-num_timed:]),
        num_token_pairs=sum(first.token_pairs[-num_timed:]),
        trains=scenario.training.trains,
    )
    flops = sum(by_module.values())
    flops_per_second = flops / sum(timing.step_seconds)
    return timing.model_copy(
        update={
            "model_flops_per_step": flops / num_timed,
            "model_tflops_per_gpu": flops_per_second / len(ranks) / 1e12,
            "mfu": mfu(
                flops_per_second=flops_per_second,
                num_devices=len(ranks),
                device=first.device,
                precision=scenario.precision,
            ),
            "modules": merge_modules(ranks, account, {name: count / num_timed for name, count in by_module.items()}),
        }
    )


def _judge_as_timed(account: Account, timed: Trained, reference: Reference | None, *, num_steps: int) -> Account:
    """A layout that has not passed as timed has not passed: what is proven must be what is measured."""
    if reference is None or reference.timed is None or reference.band is None:
        return replace(account, status="unjudged", reason="the baseline was not timed, so nothing proves these times")
    return _with_as_timed(account, judge_as_timed(timed, reference.timed, reference.band, num_steps=num_steps))


def _with_as_timed(account: Account, as_timed: AsTimed) -> Account:
    """The account with what its timed steps proved; where they failed, the layout has."""
    assert account.parity is not None
    if as_timed.verdict != "failed":
        reason = account.reason if account.status == "passed" else f"{as_timed.reason}; {account.parity.reason}"
        return replace(account, reason=reason, parity=account.parity.model_copy(update={"as_timed": as_timed}))
    failed = {"as_timed": as_timed, "verdict": "failed", "reason": as_timed.reason, "failed_check": "as_timed"}
    return replace(
        account,
        status="parity_failed",
        reason=as_timed.reason,
        parity=account.parity.model_copy(update=failed),
    )


def _ended_early(attempt: Attempt) -> Account:
    """A launch that left no record."""
    assert attempt.outcome.ended != "finished"
    return Account(status=attempt.outcome.ended, reason=attempt.outcome.reason)


def _cut_short(account: Account, attempt: Attempt) -> Account:
    """What was known, with the end that a later launch made of it."""
    ended = _ended_early(attempt)
    return replace(account, status=ended.status, reason=f"after parity: {ended.reason}")
