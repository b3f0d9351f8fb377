"""Python API of the trainer: a script calls it on every rank, started by plain `torchrun`.

pretrain = set_up, then train: steps, evaluations (evaluate) and checkpoints, each at its own interval
"""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import torch.distributed as dist
from pydantic import InstanceOf

from mimo_bench.data import Dataset as Dataset
from mimo_bench.data import Split, build_dataset, in_words, num_left_out, prepare
from mimo_bench.data import Text as Text
from mimo_bench.layout import BatchPlan, Layout
from mimo_bench.models import check_shape, read_manifest
from mimo_bench.trainer.arguments import check_argument
from mimo_bench.trainer.checkpoint.files import path_of
from mimo_bench.trainer.checkpoint.load import load_weights, resume
from mimo_bench.trainer.checkpoint.save import Saver
from mimo_bench.trainer.device import RankDevice, join
from mimo_bench.trainer.logging import EvaluationTotals, Metrics, StepResult
from mimo_bench.trainer.model import Provider
from mimo_bench.trainer.pretraining import BuiltinData, Pretraining, parse_data, processor_of
from mimo_bench.trainer.trainer import StepTaken, Trainer, TrainerConfig, build_trainer
from mimo_bench.util import PositiveInt, TrainingError, UsageError, counted

Samples = Dataset | BuiltinData
"""A user's own dataset, or a built-in one."""

OnStep = Callable[[int, StepResult, float], None]
"""Called on every rank after a step, on GPUs while the next one runs: steps taken in all, result, seconds."""


_SAMPLES = ("num_items", "encoder_inputs", "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of a training; the same on every rank."""

    num_steps: int
    """Taken in all, by this process and by those before it."""
    losses: tuple[float, ...]
    """Of the steps that this process took."""
    evaluation: EvaluationTotals | None
    """The last one on validation samples; None without validation, or if no step was left to take."""
    test: EvaluationTotals | None
    """On test samples, after the last step; None in the same cases."""


def pretrain(
    config: Pretraining,
    *,
    layout: Layout,
    data: Samples = "synthetic",
    provider: Provider | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Outcome:
    """Train `config.num_steps` steps, from the newest checkpoint if there is one; called on every rank.

    A script may call it several times, for one stage after the other. It joins the world of ranks and leaves it again,
    unless the script has joined it.

    Args:
        config: what is trained, how far, and what is left behind.
        layout: which module on which ranks; its world is the one that was started.
        data: supplies samples by id; or one of ours, as a scenario names or describes it.
        provider: builds this rank's part of the model; None for `build_model`, or what a scenario names.
        device: what ranks run on; auto takes GPUs where there are any.

    Raises:
        UsageError: no ranks were started, or another number of them.
        ScenarioError: layout, batch, model and data do not fit together.
        WeightsError: the weights to start from are missing, cut short, or of another model.
        DataError: a sample cannot be read, on the ranks that read it; the message names it.
        CheckpointError: no checkpoint can be resumed, or none can be written.
        TrainingError: a loss is infinite or no number.
    """
    is_own_world = not dist.is_initialized()
    trainer = set_up(config, layout=layout, data=data, provider=provider, device=join(device))
    outcome = train(trainer, config, data=data)
    # Model and optimizer refer to each other, and the device needs their room for the next stage.
    del trainer
    gc.collect()
    if is_own_world:
        dist.destroy_process_group()
    return outcome


def set_up(
    config: Pretraining,
    *,
    layout: Layout,
    data: Samples,
    provider: Provider | None = None,
    device: RankDevice,
) -> Trainer:
    """This rank's trainer before its first step; collective over the world. Raises what `pretrain` does.

    `device` is what `join` gives.
    """
    check_argument("layout", layout, InstanceOf[Layout])
    check_argument("device", device, InstanceOf[RankDevice])
    if not isinstance(data, BuiltinData) and (missing := [name for name in _SAMPLES if not hasattr(data, name)]):
        raise UsageError(f"data = {data!r}: has no {', '.join(missing)}; give a Dataset, or the name of a built-in one")
    if (num_ranks := dist.get_world_size()) != layout.world_size:
        raise UsageError(
            f"{num_ranks} ranks were started, and the layout has {layout.world_size}; start that many, --nnodes times "
            "--nproc-per-node of torchrun"
        )
    inside = _checked(config, layout, data)
    dataset = _dataset(config, data)
    _prepare(dataset, config.num_batches, global_batch_size=config.global_batch_size)
    trainer = build_trainer(inside, dataset=dataset, device=device, provider=provider)
    if config.weights is not None and config.precision != "fp32":
        # The optimizer keeps fp32 weights of its own, and has made them of rounded ones.
        load_weights(trainer, config.weights)
    return trainer


def train(trainer: Trainer, config: Pretraining, *, data: Samples, on_step: OnStep = lambda *_: None) -> Outcome:
    """Take the steps that are left, evaluate and save on the way; collective over the world.

    Args:
        trainer: what `set_up` made of the same `config` and `data`.
        config: how far it trains, and what is left behind.
        data: what the trainer reads; a checkpoint of other data is refused.
        on_step: called after every step.

    Raises:
        DataError: a sample cannot be read, on the ranks that read it; the message names it.
        CheckpointError: no checkpoint can be resumed, or none can be written.
        TrainingError: a loss is infinite or no number, on every rank alike; nothing is saved after it.
    """
    saver, passed_over = _go_on(trainer, config, data)
    first, last = trainer.optimizer.num_steps, config.num_steps
    metrics = Metrics(config.logging, num_steps=last, first_step=first, is_writer=dist.get_rank() == 0)
    metrics.begin(skipped_samples=num_left_out(trainer.loader.dataset), passed_over=passed_over)
    losses: list[float] = []
    scores: dict[Split, EvaluationTotals] = {}

    def tell(num_steps: int, taken: StepTaken, rates: dict[str, float]) -> None:
        result = taken.result()
        losses.append(result.loss)
        seconds = metrics.step(num_steps, result, learning_rates=rates, num_samples=config.global_batch_size)
        on_step(num_steps, result, seconds)
        if not math.isfinite(result.loss):
            if saver is not None:
                saver.wait()  # so that what was saved before is whole
            raise TrainingError(f"the loss of step {num_steps} is {result.loss}; lower training.learning_rate")

    pending: deque[tuple[int, StepTaken, dict[str, float]]] = deque()
    # One step late on a GPU, which then never waits for the host; on a CPU a step is complete when it returns.
    max_pending = 1 if trainer.loader.device.type == "cuda" else 0
    with closing(metrics), closing(trainer.loader.batches("train", start=first, stop=last)) as batches:
        for num_steps, batch in enumerate(batches, start=first + 1):
            rates = trainer.optimizer.learning_rates
            pending.append((num_steps, trainer.train_step(batch), rates))
            due, is_saved = config.scored_after(num_steps), config.is_saved_after(num_steps)
            while len(pending) > (0 if due or is_saved or num_steps == last else max_pending):
                tell(*pending.popleft())
            for split, num_batches in due.items():
                scores[split] = evaluate(trainer, split, num_batches=num_batches)
                metrics.evaluation(num_steps, split, scores[split])
            if saver is not None and is_saved:
                saver.save()
                metrics.resume_clock()
    if saver is not None:
        saver.wait()
    return Outcome(
        num_steps=trainer.optimizer.num_steps,
        losses=tuple(losses),
        evaluation=scores.get("validation"),
        test=scores.get("test"),
    )


def evaluate(trainer: Trainer, split: Split, *, num_batches: int) -> EvaluationTotals:
    """Score the first `num_batches` global batches of a split without training on them; collective over the world.

    Raises:
        UsageError: there is no such split, or nothing to score.
        DataError: a sample cannot be read; the message names it.
    """
    check_argument("split", split, Split)
    check_argument("num_batches", num_batches, PositiveInt)
    _prepare(trainer.loader.dataset, {split: num_batches}, global_batch_size=trainer.config.plan.global_batch_size)
    with closing(trainer.loader.batches(split, stop=num_batches)) as batches:
        return trainer.evaluate(batches)


def _checked(config: Pretraining, layout: Layout, data: Samples) -> TrainerConfig:
    """Return the trainer's configuration, after checking that model, batch, layout, settings and weights fit."""
    config.training.check(modules=tuple(config.shape.modules))
    config.shape.check(layout)
    config.shape.check_sequence(config.seq_length)
    config.settings.check(
        layout,
        has_experts=config.shape.language.experts is not None,
        precision=config.precision,
        seq_length=config.seq_length,
        # A user's own samples are unknown before they are read.
        counts_vary=isinstance(data, BuiltinData) and parse_data(data).counts_vary,
    )
    if config.weights is not None:
        check_shape(config.weights, read_manifest(config.weights), config.shape)
    return TrainerConfig(
        shape=config.shape,
        layout=layout,
        plan=BatchPlan.of(
            layout,
            global_batch_size=config.global_batch_size,
            global_micro_batch_size=config.global_micro_batch_size,
        ),
        settings=config.settings,
        training=config.training,
        precision=config.precision,
        seq_length=config.seq_length,
        seed=config.seed,
        weights=config.weights,
        loader=config.loader,
    )


def _dataset(config: Pretraining, data: Samples) -> Dataset:
    if not isinstance(data, BuiltinData):
        return data
    ours = parse_data(data)
    ours.check(config.shape, seq_length=config.seq_length)
    return build_dataset(ours, shape=config.shape, seq_length=config.seq_length, seed=config.seed)


def _prepare(dataset: Dataset, num_batches: Mapping[Split, int], *, global_batch_size: int) -> None:
    """Make sure that what will be read can be; rank 0 says what is left out."""
    skipped = prepare(dataset, {split: count * global_batch_size for split, count in num_batches.items()})
    if dist.get_rank() == 0:
        for line in in_words(skipped):
            print(line, flush=True)


def _go_on(trainer: Trainer, config: Pretraining, data: Samples) -> tuple[Saver | None, tuple[str, ...]]:
    """Resume from the newest whole checkpoint; return what saves later ones, and the damaged ones that were skipped."""
    if (saving := config.saving) is None:
        return None, ()
    held_fixed = _held_fixed(config, data)
    saver = Saver(
        trainer,
        saving.directory,
        held_fixed=held_fixed,
        keep_last=saving.keep_last,
        in_background=saving.in_background,
        processor=processor_of(data),
    )
    if (resumed := resume(trainer, saving.directory, held_fixed=held_fixed)) is None:
        return saver, ()
    if dist.get_rank() == 0:
        left = config.num_steps - resumed.num_steps
        is_left = f"{counted(left, 'step')} {'is' if left == 1 else 'are'} left"
        what = is_left if left > 0 else f"no step of {config.num_steps} is left; raise num_steps"
        place = path_of(saving.directory, resumed.num_steps)
        print(*resumed.passed_over, f"resuming from {place}: {what}", sep="\n", flush=True)
    return saver, resumed.passed_over


def _held_fixed(config: Pretraining, data: Samples) -> dict[str, Any]:
    """Return what a checkpoint must have in common; rank 0 reads the files for it. Collective."""
    shared: list[Any] = [config.held_fixed(data) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(shared, src=0)
    found: dict[str, Any] = shared[0]
    return found
