"""Parity mode on one rank: the steps that are compared with the baseline, and the traced step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from typing import Any

import torch

from mimo_bench.bench.ranks.log import Phases, RankLog, finite
from mimo_bench.bench.ranks.setup import plant
from mimo_bench.bench.request import LaunchRequest
from mimo_bench.launch import beat
from mimo_bench.meters import Allocator, ExtraMemory, build_clock
from mimo_bench.parity import (
    FINGERPRINT,
    GRADIENTS,
    OUTCOME,
    OUTCOME_STEPS,
    TRACE,
    Fingerprint,
    GradientProbe,
    Mismatch,
    OutcomeProbe,
    SketchProbe,
    Trace,
    compare_fingerprints,
    fingerprint,
    jitter_weights,
    other_setting,
)
from mimo_bench.record import Comparing, EvaluationResult, RankRecord
from mimo_bench.trainer import MicroBatch, Trainer, shards
from mimo_bench.util import write_atomically


def run_parity(trainer: Trainer, request: LaunchRequest, *, undo: ExitStack, phases: Phases) -> RankRecord:
    """Fingerprints first; then the steps that are compared, the steps that learn, and the held-out samples."""
    steps, log = request.scenario.steps, RankLog(build_clock(request.device_kind))
    plant(trainer, request, undo)
    if request.variant == "jitter":
        jitter_weights(trainer)
    batches = [trainer.loader.global_batch("train", step) for step in range(steps.parity)]
    phases.end("load")
    extra = ExtraMemory(Allocator()) if request.device_kind == "cuda" else None
    with watched(extra):
        found = fingerprint(trainer, batches)
        mismatch = compare_with_baseline(found, request)
    phases.end("fingerprint")
    beat()
    known: dict[str, Any] = {}
    if mismatch is None:
        assert isinstance(found, Fingerprint)
        known = train_and_compare(trainer, request, log, batches, extra)
        known["counts"] = found.other_count(log.counted())
        known["held_out"] = known["evaluation"] = evaluate(trainer, request.scenario.evaluation.num_batches)
    if mismatch is None and request.is_baseline:
        known["repeated_loss"] = finite(trainer.evaluate(batches[:1]).loss)
    if mismatch is None and request.variant is None and steps.learning:
        with closing(trainer.loader.batches("train", start=steps.parity)) as later:
            log.train(trainer, (next(later) for _ in range(steps.learning)))
        known["evaluation"] = evaluate(trainer, request.scenario.evaluation.num_batches)
    return log.record(
        trainer,
        request.mode,
        phases=phases,
        mismatch=mismatch.reason if mismatch is not None else None,
        weights_match_at_start=mismatch is None or mismatch.weights_match,
        samples_match=mismatch is None or mismatch.samples_match,
        comparing=extra and Comparing(extra_bytes=extra.peak, largest_tensor_bytes=largest_tensor_bytes(trainer)),
        **known,
    )


def train_and_compare(
    trainer: Trainer,
    request: LaunchRequest,
    log: RankLog,
    batches: Sequence[Sequence[MicroBatch]],
    extra: ExtraMemory | None,
) -> dict[str, Any]:
    """Train the parity steps and compare with the baseline, or be it; return fields of the rank's record."""
    known: dict[str, Any] = {"groups": None}
    gradients = GradientProbe(request.baseline / GRADIENTS, is_baseline=request.is_baseline)
    outcome = OutcomeProbe(request.baseline / OUTCOME, is_baseline=request.is_baseline)
    late = SketchProbe(request.baseline / "late_updates.json", is_baseline=request.is_baseline)

    def inspect_gradients() -> None:
        with watched(extra):
            gradients.inspect(trainer)

    def check_groups() -> None:
        known["groups"] = known["groups"] or other_setting(trainer)

    log.train(trainer, batches[:1], inspect=inspect_gradients, after_step=check_groups)
    log.train(trainer, batches[1:OUTCOME_STEPS], after_step=check_groups)
    with watched(extra):
        outcome.inspect(trainer)
    beat()
    if len(batches) > OUTCOME_STEPS:
        log.train(trainer, batches[OUTCOME_STEPS:], after_step=check_groups)
        with watched(extra):
            late.inspect_updates(trainer)
    return known | {
        "gradients": gradients.differences,
        "optimizer": outcome.differences,
        "movement": outcome.movement,
        "late_updates": late.differences,
        "replicas": gradients.disagreement or outcome.disagreement or late.disagreement,
    }


def compare_with_baseline(found: Fingerprint | Mismatch, request: LaunchRequest) -> Mismatch | None:
    """Return the mismatch before the first step, if any; the baseline leaves its fingerprint for the others."""
    if isinstance(found, Mismatch):
        return found
    if request.variant is not None:
        # A variant's weights may differ in the last place.
        return None
    if not request.is_baseline:
        expected = (request.baseline / FINGERPRINT).read_text(encoding="utf-8")
        return compare_fingerprints(found, Fingerprint.model_validate_json(expected))
    if torch.distributed.get_rank() == 0:
        write_atomically(request.baseline / FINGERPRINT, found.model_dump_json().encode())
    return None


def evaluate(trainer: Trainer, num_batches: int) -> EvaluationResult | None:
    """Held-out loss and accuracy over `num_batches` global batches."""
    if not num_batches:
        return None
    totals = trainer.evaluate(_with_beats(trainer.loader.global_batch("validation", i) for i in range(num_batches)))
    return EvaluationResult(
        loss=finite(totals.loss),
        answer_accuracy=finite(totals.answer_accuracy),
        num_samples=totals.num_samples,
        scored_tokens=totals.num_scored,
    )


def _with_beats(batches: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    for batch in batches:
        beat()
        yield batch


def watched(extra: ExtraMemory | None) -> AbstractContextManager[None]:
    """A context whose memory is watched; None for ranks whose allocator does not say."""
    return nullcontext() if extra is None else extra.watched()


def largest_tensor_bytes(trainer: Trainer) -> int:
    """Return the fp32 size of the largest full tensor of which this rank holds a part or the whole."""
    sizes = [math.prod(shard.full_shape) for shard in shards(trainer.model, trainer.topology)]
    return torch.float32.itemsize * max(sizes)


def run_trace(trainer: Trainer, request: LaunchRequest, *, undo: ExitStack, phases: Phases) -> RankRecord:
    """The first parity step once more, with a sketch of every activation and its gradient."""
    log = RankLog(build_clock(request.device_kind))
    plant(trainer, request, undo)
    batch = trainer.loader.global_batch("train", 0)
    trace = Trace(trainer, batch, undo)
    log.train(trainer, [batch])
    merged = trace.merge()
    if torch.distributed.get_rank() == 0:
        write_atomically(request.directory / TRACE, merged.model_dump_json().encode())
    return log.record(trainer, request.mode, phases=phases)
