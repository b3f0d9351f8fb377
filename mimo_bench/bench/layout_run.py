"""One layout from start to verdict: parity first, then, if it trains the same model, its timing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Final

from mimo_bench.bench.attempt import Attempts, LaunchResult
from mimo_bench.bench.ledger import entry
from mimo_bench.models import mfu, model_flops, unknown_modules
from mimo_bench.parity import (
    LATE_LIMITS,
    Bounds,
    LayoutFacts,
    ParityChecks,
    Planting,
    TimedBounds,
    Variant,
    first_difference,
    judge,
    judge_as_timed,
    judge_baseline,
    judge_baseline_as_timed,
    judge_noise,
    parameter_bounds,
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
from mimo_bench.scenario import LayoutCase, Scenario

_SHOWN_BY_A_TRACE: Final[tuple[Check, ...]] = ("gradients", "sound", "optimizer", "steps")
"""Failed checks after which a second pass over the first step can say more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The baseline's training, with which every other layout is compared."""

    trained: Trained
    """In parity mode; as timed where parity is not asked for."""
    tolerance: Tolerance
    """How far equal trainings lie apart then."""
    late_bounds: Bounds = field(default_factory=dict)
    """Bounds of single parameters' updates by all parity steps."""
    timed: Trained | None = None
    """Under its timed settings; None where nothing is timed."""
    timed_bounds: TimedBounds | None = None
    """Bounds under those settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutResult:
    """Results of a layout so far."""

    status: Status
    reason: str
    trained: Trained | None = None
    parity: Parity | None = None
    reference: Reference | None = None
    """Reference for other layouts; None unless this is a sound baseline."""
    attempts: tuple[LaunchResult, ...] = ()
    repeats: tuple[LaunchResult, ...] = ()
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

    def run(self, case: LayoutCase, reference: Reference | None) -> LayoutResult:
        """Judge and time the layout; a layout that trains another model is not worth timing."""
        result = LayoutResult(status="unjudged", reason="parity was not asked for")
        if "parity" in self.modes:
            result = self._judge(case, reference)
        if "timing" in self.modes and result.status in ("passed", "unjudged"):
            result = self._time(case, result, reference)
            result = self._time_again(case, result)
        if "comm" in self.modes and result.status in ("passed", "unjudged"):
            result = self._count_communication(case, result)
        return result

    def record(self, case: LayoutCase, result: LayoutResult) -> LayoutRecord:
        """The layout's entry in the record."""
        known: dict[str, Any] = {
            "launches": tuple(
                attempt.launch for attempt in (*result.attempts, *result.repeats) if attempt.launch is not None
            )
        }
        if (trained := result.trained) is not None:
            compared = slice(self.scenario.steps.parity)
            known["losses"] = trained.losses[compared]
            known["grad_norms"] = {module: norms[compared] for module, norms in trained.grad_norms.items()}
            known["evaluation"], known["held_out"] = trained.evaluation, trained.held_out
        known["parity"] = result.parity
        known["comparing"] = merge_comparing(result.ranks_in("parity"))
        watched = result.ranks_in("comm")
        known["account"] = merge_account(watched)
        known["communication"] = merge_communication(watched)
        if timed := result.ranks_in("timing"):
            known["timing"] = with_repeats(measure(self.scenario, timed, known["account"]), result.repeats)
            known["memory"] = merge_memory(timed, self._predicted_peaks(case))
            known["energy"] = merge_energy(timed)
            known["loading"] = merge_loading(timed)
            known["imbalance"] = imbalance(timed)
        if result.ranks:
            known["skipped_samples"] = result.ranks[0].skipped_samples
        known["unmeasured"] = merge_unmeasured(result.ranks)
        return entry(case, status=result.status, reason=result.reason, known=known)

    def _predicted_peaks(self, case: LayoutCase) -> dict[int, int]:
        """By rank; nothing where a module is another package's."""
        if unknown_modules(self.scenario.shape):
            return {}
        peaks = {one.rank: one.peak_bytes for one in predict_memory(self.scenario, case.name)}
        return {rank: peak for rank, peak in peaks.items() if peak is not None}

    def _judge(self, case: LayoutCase, reference: Reference | None) -> LayoutResult:
        if reference is None and not case.is_baseline:
            return LayoutResult(
                status="unjudged",
                reason=(
                    f"baseline {self.scenario.baseline} has no usable result, so this layout cannot be judged; see the "
                    "baseline's reason"
                ),
            )
        attempt = self._attempt(case, "parity")
        if not attempt.finished:
            return _ended_early(attempt)
        trained = merge_training(attempt.ranks, num_parity_steps=self.scenario.steps.parity)
        checks = self._checks_of(case)
        if reference is not None:
            parity = judge(trained, reference.trained, checks, reference.tolerance, reference.late_bounds)
            return self._localise(case, _judged(parity, trained, attempt))
        return self._measure_noise(case, _judged(judge_baseline(trained, checks), trained, attempt))

    def _localise(self, case: LayoutCase, result: LayoutResult) -> LayoutResult:
        """Find by a second pass over the first step where a layout whose steps are wrong first leaves the baseline."""
        if not self.second_pass or result.parity is None or result.parity.failed_check not in _SHOWN_BY_A_TRACE:
            return result
        baseline = self.attempts.trace(self.scenario.case(self.scenario.baseline), fault=None)
        found = self.attempts.trace(case, fault=self.planting.in_layout(case.name))
        if baseline is None or found is None:
            return result
        place = first_difference(found, baseline)
        return replace(result, parity=result.parity.model_copy(update={"first_difference": place}))

    def _measure_noise(self, case: LayoutCase, result: LayoutResult) -> LayoutResult:
        """Train the baseline's variants in parity mode; the reference for other layouts is then complete."""
        assert result.parity is not None
        assert result.trained is not None
        if result.status != "passed":
            return result
        variants: dict[VariantName, Trained] = {}
        too_large = []
        for variant in parity_variants(self.scenario):
            attempt = self._attempt(case, "parity", variant)
            if attempt.outcome.ended == "oom":
                too_large.append(variant.name)
                continue
            if not attempt.finished:
                return _cut_short(result, attempt)
            trained = merge_training(attempt.ranks, num_parity_steps=self.scenario.steps.parity)
            if (problem := trained.mismatch or trained.disagreement) is not None:
                return _unfit(result, variant.name, problem)
            variants[variant.name] = trained
        parity = judge_noise(result.parity, variants, result.trained, self._checks_of(case))
        parity = parity.model_copy(update={"reason": parity.reason + _without(too_large)})
        judged = replace(result, parity=parity, reason=parity.reason)
        if parity.tolerance is None:
            return replace(judged, status="parity_failed")
        late = parameter_bounds((one.late_updates for one in variants.values()), LATE_LIMITS)
        reference = Reference(trained=result.trained, tolerance=parity.tolerance, late_bounds=late)
        return replace(judged, reference=reference)

    def _time(self, case: LayoutCase, result: LayoutResult, reference: Reference | None) -> LayoutResult:
        attempt = self._attempt(case, "timing")
        if not attempt.finished:
            return _cut_short(result, attempt)
        timed = replace(result, attempts=(*result.attempts, attempt))
        trained = merge_training(attempt.ranks, num_parity_steps=self.scenario.steps.num_as_timed)
        if "parity" not in self.modes:
            timed = replace(timed, parity=Parity(verdict="unjudged", reason=result.reason))
        if case.is_baseline:
            return self._measure_band(case, timed, trained)
        return _judge_as_timed(timed, trained, reference)

    def _time_again(self, case: LayoutCase, result: LayoutResult) -> LayoutResult:
        """Launch and time a layout that passed some more times: ranks never start twice in quite the same place."""
        for repeat in range(1, self.num_timing_launches):
            if result.status not in ("passed", "unjudged"):
                break
            attempt = self._attempt(case, "timing", repeat=repeat)
            result = (
                replace(result, repeats=(*result.repeats, attempt)) if attempt.finished else _cut_short(result, attempt)
            )
        return result

    def _measure_band(self, case: LayoutCase, result: LayoutResult, timed: Trained) -> LayoutResult:
        """Train the baseline's variants and let their spread say what a difference means."""
        num_steps = self.scenario.steps.num_as_timed
        variants, too_large = {}, []
        for variant in rounded_variants(self.scenario):
            attempt = self._attempt(case, "timing", variant)
            if attempt.outcome.ended == "oom":
                too_large.append(variant.name)
                continue
            if not attempt.finished:
                return _cut_short(result, attempt)
            variants[variant.name] = merge_training(attempt.ranks, num_parity_steps=num_steps)
        as_timed = judge_baseline_as_timed(timed, variants, precision=self.scenario.precision, num_required=num_steps)
        as_timed = as_timed.model_copy(update={"reason": as_timed.reason + _without(too_large)})
        judged = _with_as_timed(result, as_timed)
        if as_timed.band is None:
            return replace(judged, reference=None)
        reference = result.reference or Reference(trained=timed, tolerance=as_timed.band)
        bounds = TimedBounds.of(as_timed.band, variants.values(), self.scenario.precision)
        return replace(judged, reference=replace(reference, timed=timed, timed_bounds=bounds))

    def _count_communication(self, case: LayoutCase, result: LayoutResult) -> LayoutResult:
        attempt = self._attempt(case, "comm")
        if not attempt.finished:
            return _cut_short(result, attempt)
        return replace(result, attempts=(*result.attempts, attempt))

    def _attempt(self, case: LayoutCase, mode: Mode, variant: Variant | None = None, repeat: int = 0) -> LaunchResult:
        self.on_event(LayoutStarted(name=case.name, mode=mode))
        fault = None if case.is_baseline else self.planting.in_layout(case.name)
        return self.attempts.run(case, mode, fault=fault, variant=variant, repeat=repeat)

    def _checks_of(self, case: LayoutCase) -> ParityChecks:
        plan = case.plan
        return ParityChecks(
            num_steps=self.scenario.steps.parity,
            min_answer_accuracy=self.scenario.evaluation.min_answer_accuracy,
            facts=LayoutFacts(
                grids=case.layout.modules,
                counts={
                    "micro-batches": plan.num_micro_batches,
                    "samples of the global batch": plan.global_batch_size,
                    "samples of a micro-batch": plan.global_micro_batch_size,
                },
            ),
        )


def with_repeats(timing: Timing, repeats: Sequence[LaunchResult]) -> Timing:
    """The timing of the first launch with the medians of all."""
    again = (median(slowest_rank_seconds(attempt.ranks)) for attempt in repeats)
    return timing.model_copy(update={"launch_medians": (timing.step_seconds_median, *again)})


def _without(variants: Sequence[VariantName]) -> str:
    """Return the end of a reason that names the variants that need more memory than the baseline."""
    return f"; without {' and '.join(variants)}, for which there was no memory" if variants else ""


def _judged(parity: Parity, trained: Trained, attempt: LaunchResult) -> LayoutResult:
    return LayoutResult(
        status="parity_failed" if parity.verdict == "failed" else "passed",
        reason=parity.reason,
        trained=trained,
        parity=parity,
        attempts=(attempt,),
    )


def _unfit(result: LayoutResult, variant: VariantName, problem: str) -> LayoutResult:
    """A baseline one of whose variants is no training to compare with."""
    assert result.parity is not None
    reason = f"the baseline proves nothing: its variant {variant}: {problem}"
    failed = {"verdict": "failed", "reason": reason, "failed_check": "sound"}
    return replace(result, status="parity_failed", reason=reason, parity=result.parity.model_copy(update=failed))


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
    if scenario.shape.builder is not None:
        # The operations of another package's model are not known.
        return timing.model_copy(update={"modules": merge_modules(ranks, account, {})})
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


def _judge_as_timed(result: LayoutResult, timed: Trained, reference: Reference | None) -> LayoutResult:
    """A layout that has not passed as timed has not passed: what is proven must be what is measured."""
    if reference is None or reference.timed is None or reference.timed_bounds is None:
        return replace(result, status="unjudged", reason="the baseline was not timed, so nothing proves these times")
    return _with_as_timed(result, judge_as_timed(timed, reference.timed, reference.timed_bounds))


def _with_as_timed(result: LayoutResult, as_timed: AsTimed) -> LayoutResult:
    """The result with what its timed steps proved; where they failed, the layout has."""
    assert result.parity is not None
    if as_timed.verdict != "failed":
        reason = result.reason if result.status == "passed" else f"{as_timed.reason}; {result.parity.reason}"
        return replace(result, reason=reason, parity=result.parity.model_copy(update={"as_timed": as_timed}))
    failed = {"as_timed": as_timed, "verdict": "failed", "reason": as_timed.reason, "failed_check": "as_timed"}
    return replace(
        result,
        status="parity_failed",
        reason=as_timed.reason,
        parity=result.parity.model_copy(update=failed),
    )


def _ended_early(attempt: LaunchResult) -> LayoutResult:
    """A launch that left no record."""
    assert attempt.outcome.ended != "finished"
    return LayoutResult(status=attempt.outcome.ended, reason=attempt.outcome.reason)


def _cut_short(result: LayoutResult, attempt: LaunchResult) -> LayoutResult:
    """Return the result so far, ended by a later launch."""
    ended = _ended_early(attempt)
    return replace(result, status=ended.status, reason=f"after parity: {ended.reason}")
