"""What each rank runs: scenario in, record out. Matrix and worker meet only through files."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from mimo_bench.bench.ranks.log import Phases, RankLog, finite
from mimo_bench.bench.ranks.timing import Window
from mimo_bench.data import Dataset, Split, build_dataset, in_words, prepare
from mimo_bench.launch import beat
from mimo_bench.layout import LANGUAGE
from mimo_bench.meters import (
    Allocator,
    ExtraMemory,
    Unmeasured,
    build_clock,
    rehearsal,
    snapshot_if_out_of_memory,
    watch_communication,
)
from mimo_bench.parity import (
    FINGERPRINT,
    GRADIENTS,
    OUTCOME_STEPS,
    TRACE,
    FaultContext,
    Fingerprint,
    GradientProbe,
    Mismatch,
    OutcomeProbe,
    Trace,
    compare,
    fingerprint,
    jitter_weights,
)
from mimo_bench.record import (
    Comparing,
    EvaluationResult,
    Mode,
    RankLoading,
    RankRecord,
    VariantName,
    write_atomically,
    write_rank,
)
from mimo_bench.scenario import Scenario
from mimo_bench.trainer import LoaderWatch, MicroBatch, RankDevice, Trainer, TrainerConfig, build_trainer, join, shards


class WorkerArguments(BaseModel):
    """One launch: one layout in one mode."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: Scenario
    weights: Path | None = None
    """Where the weights lie that the scenario names."""
    layout: str
    mode: Mode
    device_kind: Literal["cpu", "cuda"]
    directory: Path
    """Where ranks leave their records, as `rank<k>.json`."""
    baseline: Path
    """The folder where the baseline leaves fingerprint and gradients, and every other layout is held against them."""
    fault: str | None
    """What to plant, as `module:function`, or `module:function:argument`."""
    variant: VariantName | None
    """Train the baseline's first steps once more, in this way; None for the layout itself."""

    is_traced: bool = False
    """Take one parity step under hooks, for the place where a layout that failed leaves the baseline."""

    @property
    def is_baseline(self) -> bool:
        """Whether this training is the one that others are held against."""
        return self.layout == self.scenario.baseline and self.variant is None


def main(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Train one layout in one mode as `rank` of `world_size`, and leave a record."""
    phases = Phases()
    # Through JSON, whose lists may fill a tuple even where types are strict.
    asked = WorkerArguments.model_validate_json(json.dumps(arguments))
    if asked.mode == "parity":
        be_deterministic()
    device = join(asked.device_kind)
    phases.end("join")
    dataset, skipped = open_dataset(asked.scenario)
    for line in in_words(skipped):
        print(line)
    with snapshot_if_out_of_memory(None, asked.directory):
        trainer = build(asked, dataset, device)
    phases.end("build")
    beat()
    run = run_trace if asked.is_traced else _RUNS[asked.mode]
    with ExitStack() as undo, snapshot_if_out_of_memory(trainer, asked.directory):
        record = run(trainer, asked, undo=undo, phases=phases)
    assert record.rank == rank
    counts = {split: len(found) for split, found in skipped.items()}
    write_rank(asked.directory / f"rank{rank}.json", record.model_copy(update={"skipped_samples": counts}))


def open_dataset(scenario: Scenario) -> tuple[Dataset, dict[Split, dict[int, str]]]:
    """The samples of a scenario, and by split the rows that are left out of them; collective over the world."""
    dataset = build_dataset(scenario.data, shape=scenario.shape, seq_length=scenario.seq_length, seed=scenario.seed)
    return dataset, prepare(dataset, num_samples(scenario))


def num_samples(scenario: Scenario) -> dict[Split, int]:
    """How many samples of each split the longest mode of a scenario reads."""
    steps = scenario.steps
    num_steps = max(steps.parity + steps.learning, steps.warmup + steps.timed + num_watched(scenario))
    num_batches: dict[Split, int] = {"train": num_steps, "validation": scenario.evaluation.num_batches}
    return {split: count * scenario.global_batch_size for split, count in num_batches.items()}


def be_deterministic() -> None:
    """Let this process compute the same bits every time; kernels without such a variant are refused by torch."""
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def build(asked: WorkerArguments, dataset: Dataset, device: RankDevice) -> Trainer:
    """The trainer that the mode calls for: parity trains in fp32 with nothing overlapped, timing as declared."""
    scenario = asked.scenario
    config = TrainerConfig.of(scenario, asked.layout, weights=asked.weights, for_parity=asked.mode == "parity")
    return build_trainer(config, dataset=dataset, device=device)


def run_parity(trainer: Trainer, asked: WorkerArguments, *, undo: ExitStack, phases: Phases) -> RankRecord:
    """Fingerprints first; then the steps that are compared, the steps that learn, and the held-out samples."""
    steps, log = asked.scenario.steps, RankLog(build_clock(asked.device_kind))
    plant(trainer, asked, undo)
    if asked.variant == "jitter":
        jitter_weights(trainer)
    batches = [trainer.loader.global_batch("train", step) for step in range(steps.parity)]
    phases.end("load")
    extra = ExtraMemory(Allocator()) if asked.device_kind == "cuda" else None
    with watched(extra):
        mismatch = hold_against_baseline(fingerprint(trainer, batches), asked)
    phases.end("fingerprint")
    beat()
    evaluation = None
    probe = GradientProbe(asked.baseline / GRADIENTS, is_baseline=asked.is_baseline)
    outcome = OutcomeProbe(asked.baseline / "outcome", is_baseline=asked.is_baseline)

    def inspect_gradients() -> None:
        with watched(extra):
            probe.inspect(trainer)

    if mismatch is None:
        log.train(trainer, batches[:1], inspect=inspect_gradients)
        log.train(trainer, batches[1:OUTCOME_STEPS])
        with watched(extra):
            outcome.inspect(trainer)
        log.train(trainer, batches[OUTCOME_STEPS:])
    if mismatch is None and asked.variant is None:
        with closing(trainer.loader.batches("train", start=steps.parity)) as later:
            log.train(trainer, (next(later) for _ in range(steps.learning)))
        evaluation = evaluate(trainer, asked.scenario.evaluation.num_batches)
    return log.record(
        trainer,
        asked.mode,
        phases=phases,
        mismatch=mismatch.reason if mismatch is not None else None,
        evaluation=evaluation,
        weights_match_at_start=mismatch is None or mismatch.weights_match,
        samples_match=mismatch is None or mismatch.samples_match,
        gradients=probe.differences,
        optimizer=outcome.differences,
        scored_tokens=probe.scored_tokens,
        replicas=probe.disagreement or outcome.disagreement,
        comparing=extra and Comparing(extra_bytes=extra.peak, largest_tensor_bytes=largest_tensor_bytes(trainer)),
    )


def watched(extra: ExtraMemory | None) -> AbstractContextManager[None]:
    """A context whose memory is watched; None for ranks whose allocator does not say."""
    return nullcontext() if extra is None else extra.watched()


def largest_tensor_bytes(trainer: Trainer) -> int:
    """Of the full tensors, in fp32, of which this rank holds a part or the whole."""
    sizes = [math.prod(shard.full_shape) for shard in shards(trainer.model, trainer.topology)]
    return torch.float32.itemsize * max(sizes)


def run_trace(trainer: Trainer, asked: WorkerArguments, *, undo: ExitStack, phases: Phases) -> RankRecord:
    """The first parity step once more, with a sketch of every activation and its gradient."""
    log = RankLog(build_clock(asked.device_kind))
    plant(trainer, asked, undo)
    batch = trainer.loader.global_batch("train", 0)
    trace = Trace(trainer, batch, undo)
    log.train(trainer, [batch])
    merged = trace.merge()
    if torch.distributed.get_rank() == 0:
        write_atomically(asked.directory / TRACE, merged.model_dump_json().encode())
    return log.record(trainer, asked.mode, phases=phases)


def run_timing(trainer: Trainer, asked: WorkerArguments, *, undo: ExitStack, phases: Phases) -> RankRecord:
    """Warm-up, then the timed window with nothing else in it."""
    steps, log = asked.scenario.steps, RankLog(build_clock(asked.device_kind))
    plant(trainer, asked, undo)
    if asked.variant == "jitter":
        jitter_weights(trainer)
    if asked.variant is not None:
        log.train(trainer, held_ready(trainer, steps.num_as_timed))
        return log.record(trainer, asked.mode, phases=phases)
    batches = held_ready(trainer, steps.warmup + steps.timed)
    phases.end("load")
    window = Window(trainer, log, device_kind=asked.device_kind)
    found = window.measure(batches, num_warmup=steps.warmup, num_compared=steps.num_as_timed)
    found["micro_batch_items"] = items_of(batches[steps.warmup :])
    found["loading"] = watch_loader(trainer, asked.scenario)
    return log.record(trainer, asked.mode, phases=phases, **found)


def run_comm(trainer: Trainer, asked: WorkerArguments, *, undo: ExitStack, phases: Phases) -> RankRecord:
    """The timed steps again, under instruments that cost time; their times are not judged."""
    steps, log = asked.scenario.steps, RankLog(build_clock(asked.device_kind))
    plant(trainer, asked, undo)
    batches = held_ready(trainer, steps.warmup + steps.timed)
    phases.end("load")
    log.train(trainer, batches[: steps.warmup])
    log.train(trainer, rehearsal(batches, num_warmup=steps.warmup, num_compared=steps.warmup))
    unmeasured = Unmeasured()
    found = watch_communication(
        trainer,
        batches[steps.warmup :],
        train=lambda part, clock: log.train(trainer, part, clock=clock),
        device_kind=asked.device_kind,
        ranks_per_host=int(os.environ["LOCAL_WORLD_SIZE"]),
        directory=asked.directory,
        unmeasured=unmeasured,
    )
    return log.record(
        trainer,
        asked.mode,
        phases=phases,
        communication=found.communication,
        account=found.account,
        unmeasured=unmeasured.reasons,
    )


_RUNS = {"parity": run_parity, "timing": run_timing, "comm": run_comm}


def held_ready(trainer: Trainer, num_steps: int) -> list[list[MicroBatch]]:
    """The global batches of the first steps, on the device, so that the loader is not what is timed."""
    batches = [trainer.loader.global_batch("train", step) for step in range(num_steps)]
    beat()
    return batches


def items_of(batches: Sequence[Sequence[MicroBatch]]) -> dict[str, tuple[int, ...]]:
    """By encoder that this rank holds, the items of each micro-batch."""
    micro_batches = [micro_batch for batch in batches for micro_batch in batch]
    modules = micro_batches[0].items_per_sample
    return {module: tuple(sum(batch.items_per_sample[module]) for batch in micro_batches) for module in modules}


def watch_loader(trainer: Trainer, scenario: Scenario) -> RankLoading | None:
    """What the loader costs when it feeds training as it would outside of the bench; after the timed window."""
    if not (num_steps := scenario.loader.num_watched_steps):
        return None
    steps, watch = scenario.steps, LoaderWatch()
    batches = trainer.loader.batches("train", start=steps.warmup + steps.timed, watch=watch)
    try:
        # The first one is waited for whatever the loader can do: nothing was made ahead of it.
        parts = samples_made(batch := next(batches))
        trainer.train_step(batch).result()
        watch.waited_seconds, began = 0.0, time.perf_counter()
        for _ in range(num_steps):
            # Waiting for each step leaves the loader the time that a step takes, and no more.
            trainer.train_step(next(batches)).result()
            beat()
        seconds = time.perf_counter() - began
    finally:
        batches.close()
    return RankLoading(
        num_workers=scenario.loader.num_workers,
        samples_per_second_per_worker=parts * watch.num_batches / watch.busy_seconds if parts else None,
        stall_share=min(1.0, watch.waited_seconds / seconds),
    )


def num_watched(scenario: Scenario) -> int:
    """Steps behind the timed window, the one included that is waited for, and what is made ahead of the last."""
    loader = scenario.loader
    return 1 + loader.num_watched_steps + loader.num_ahead + 1 if loader.num_watched_steps else 0


def samples_made(batch: Sequence[MicroBatch]) -> int:
    """Samples of which this rank makes a part in one step; 0 for a rank between the ends of a pipeline."""
    reads = {LANGUAGE} if batch[0].input_ids is not None else set()
    reads |= batch[0].encoder_inputs.keys()
    return sum(max((len(part.sample_ids[module]) for module in reads), default=0) for part in batch)


def hold_against_baseline(found: Fingerprint | Mismatch, asked: WorkerArguments) -> Mismatch | None:
    """What is wrong before the first step, if anything; the baseline leaves its fingerprint for the others."""
    if isinstance(found, Mismatch):
        return found
    if asked.variant is not None:
        # A variant's weights may differ in the last place.
        return None
    if not asked.is_baseline:
        expected = (asked.baseline / FINGERPRINT).read_text(encoding="utf-8")
        return compare(found, Fingerprint.model_validate_json(expected))
    if torch.distributed.get_rank() == 0:
        write_atomically(asked.baseline / FINGERPRINT, found.model_dump_json().encode())
    return None


def plant(trainer: Trainer, asked: WorkerArguments, undo: ExitStack) -> None:
    """Plant the fault that was asked for; none unless somebody tests the gate."""
    if asked.fault is not None:
        module, function, *argument = asked.fault.split(":", 2)
        topology = trainer.topology
        context = FaultContext(trainer=trainer, layout=topology.layout, rank=topology.rank, undo=undo)
        getattr(import_module(module), function)(context, *argument)


def evaluate(trainer: Trainer, num_batches: int) -> EvaluationResult | None:
    """Held-out loss and accuracy over `num_batches` global batches."""
    if not num_batches:
        return None
    totals = trainer.evaluate(_with_beats(trainer.loader.global_batch("validation", i) for i in range(num_batches)))
    return EvaluationResult(
        loss=finite(totals.loss), answer_accuracy=finite(totals.answer_accuracy), num_samples=totals.num_samples
    )


def _with_beats(batches: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    for batch in batches:
        beat()
        yield batch
