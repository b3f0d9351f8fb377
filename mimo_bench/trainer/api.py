"""Trains a model by itself, without the bench: what a user's own script calls on every rank under plain `torchrun`.

scenario -> layout -> [trainer] -> meters -> record -> parity -> report

    pretrain = set_up, then train: steps, evaluations and checkpoints, each at its own interval
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from mimo_bench.data_section import NAMED, Data, DigitsData, HuggingFaceData, SyntheticData
from mimo_bench.errors import ScenarioError, UsageError
from mimo_bench.layout import BatchPlan, Layout
from mimo_bench.model import ModelShape
from mimo_bench.scenario import Precision, Scenario, Settings
from mimo_bench.suggest import choices
from mimo_bench.trainer.checkpoint.load import load_weights, resume
from mimo_bench.trainer.checkpoint.save import Saver
from mimo_bench.trainer.data.loader import MicroBatch
from mimo_bench.trainer.data.registry import build_dataset
from mimo_bench.trainer.data.sample import Dataset
from mimo_bench.trainer.device import RankDevice, join
from mimo_bench.trainer.metrics import Logging, Metrics
from mimo_bench.trainer.models.mimo import Provider, build_model
from mimo_bench.trainer.trainer import EvaluationTotals, Trainer, TrainerConfig, build_trainer
from mimo_bench.training import Training

__all__ = ["Outcome", "Pretraining", "Provider", "Saving", "Validation", "pretrain", "set_up", "train"]


_DATA: TypeAdapter[Data] = TypeAdapter(Data)

Samples = Dataset | SyntheticData | DigitsData | HuggingFaceData | str
"""A dataset of the user's own, or one of ours, as a scenario describes or names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Evaluation on held-out samples; nothing else switches it on or off."""

    every: int
    """Steps between two evaluations; the last step is followed by one in any case."""
    num_batches: int
    """Global batches of held-out samples, the same each time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """Checkpoints. A training begins from the newest one that is whole, if there is any."""

    directory: Path
    """All ranks see it."""
    every: int | None = None
    """Steps between two checkpoints; after the last step there is one in any case."""
    keep_last: int = 2
    in_background: bool = False
    """Train on while a checkpoint is written; the host holds it so long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """What a training is, apart from model provider, data and layout."""

    shape: ModelShape
    seq_length: int
    global_batch_size: int
    """Samples per optimizer step."""
    global_micro_batch_size: int
    """Samples per micro-batch over all replicas."""
    num_steps: int
    """Optimizer steps from the very first; a resumed training takes those that are left."""
    training: Training = field(default_factory=Training)
    settings: Settings = field(default_factory=Settings)
    precision: Precision = "fp32"
    seed: int = 0
    weights: Path | None = None
    """A directory of weights, or a checkpoint, to start from; None for weights drawn from the seed."""
    validation: Validation | None = None
    saving: Saving | None = None
    logging: Logging = field(default_factory=Logging)

    @classmethod
    def of(cls, scenario: Scenario, layout: str, *, num_steps: int, **more: Any) -> Pretraining:
        """The training that `scenario` describes, in the settings of its layout of that name."""
        table = scenario.table(layout)
        return cls(
            shape=scenario.shape,
            seq_length=scenario.seq_length,
            global_batch_size=scenario.global_batch_size,
            global_micro_batch_size=scenario.batch_plan(layout).global_micro_batch_size,
            num_steps=num_steps,
            training=scenario.training,
            settings=table.settings,
            precision=scenario.precision,
            seed=scenario.seed,
            **more,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a training ended; the same on every rank."""

    num_steps: int
    """Taken in all, by this process and by those before it."""
    losses: tuple[float, ...]
    """Of the steps that this process took."""
    evaluation: EvaluationTotals | None
    """The last one; None where none was asked for."""


def pretrain(
    config: Pretraining,
    *,
    layout: Layout,
    data: Samples = "synthetic",
    provider: Provider = build_model,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Outcome:
    """Train `config.num_steps` steps, from the newest checkpoint if there is one; called on every rank.

    Args:
        config: what is trained, how far, and what is left behind.
        layout: which module on which ranks; its world is the one that was started.
        data: supplies samples by id; or one of ours, as a scenario names or describes it.
        provider: builds this rank's part of the model.
        device: what ranks run on; auto takes GPUs where there are any.

    Raises:
        UsageError: another number of ranks was started.
        ScenarioError: layout, batch, model and data do not fit together.
        CheckpointError: no checkpoint can be gone on from.
    """
    trainer = set_up(config, layout=layout, data=data, provider=provider, device=_join(device))
    outcome = train(trainer, config, data=data)
    dist.destroy_process_group()
    return outcome


def set_up(
    config: Pretraining,
    *,
    layout: Layout,
    data: Samples,
    provider: Provider = build_model,
    device: RankDevice,
) -> Trainer:
    """This rank's trainer before its first step; collective over the world."""
    if (num_ranks := dist.get_world_size()) != layout.world_size:
        raise UsageError(
            f"{num_ranks} ranks were started, and the layout has {layout.world_size}; start that many, --nnodes times "
            "--nproc-per-node of torchrun"
        )
    config.training.check(modules=tuple(config.shape.modules))
    config.shape.check(layout)
    config.shape.check_sequence(config.seq_length)
    plan = BatchPlan.of(
        layout,
        global_batch_size=config.global_batch_size,
        global_micro_batch_size=config.global_micro_batch_size,
    )
    if isinstance(data, str | SyntheticData | DigitsData | HuggingFaceData):
        ours = _described(data)
        ours.check(config.shape, seq_length=config.seq_length)
        data = build_dataset(ours, shape=config.shape, seq_length=config.seq_length, seed=config.seed)
    inside = TrainerConfig(
        shape=config.shape,
        layout=layout,
        plan=plan,
        settings=config.settings,
        training=config.training,
        precision=config.precision,
        seq_length=config.seq_length,
        seed=config.seed,
    )
    trainer = build_trainer(inside, dataset=data, device=device, provider=provider)
    if config.weights is not None:
        load_weights(trainer, config.weights)
    return trainer


def train(trainer: Trainer, config: Pretraining, *, data: Samples) -> Outcome:
    """Take the steps that are left, evaluate and save on the way; collective over the world."""
    saver, held_fixed = None, _held_fixed(config, data)
    if config.saving is not None:
        saver = Saver(
            trainer,
            config.saving.directory,
            held_fixed=held_fixed,
            keep_last=config.saving.keep_last,
            in_background=config.saving.in_background,
        )
        resume(trainer, config.saving.directory, held_fixed=held_fixed)
    optimizer = trainer.optimizer
    metrics = Metrics(
        config.logging, num_steps=config.num_steps, first_step=optimizer.num_steps, is_writer=dist.get_rank() == 0
    )
    losses, evaluation = [], None
    while (step := optimizer.num_steps) < config.num_steps:
        rates = optimizer.learning_rates
        result = trainer.train_step(trainer.loader.global_batch("train", step))
        losses.append(result.loss)
        metrics.step(step + 1, result, learning_rates=rates, num_samples=config.global_batch_size)
        if config.validation is not None and _is_due(step + 1, config.validation.every, config.num_steps):
            evaluation = trainer.evaluate(_held_out(trainer, config.validation.num_batches))
            metrics.evaluation(step + 1, evaluation)
        if saver is not None and config.saving is not None and _is_due(step + 1, config.saving.every, config.num_steps):
            saver.save()
            metrics.resume_clock()
    if saver is not None:
        saver.wait()
    metrics.close()
    return Outcome(num_steps=optimizer.num_steps, losses=tuple(losses), evaluation=evaluation)


def _join(device: Literal["auto", "cpu", "cuda"]) -> RankDevice:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return join(device)


def _held_out(trainer: Trainer, num_batches: int) -> Iterator[Sequence[MicroBatch]]:
    return (trainer.loader.global_batch("validation", index) for index in range(num_batches))


def _is_due(num_steps: int, every: int | None, last: int) -> bool:
    return num_steps == last or (every is not None and num_steps % every == 0)


def _held_fixed(config: Pretraining, data: Samples) -> dict[str, Any]:
    """What a training that goes on from a checkpoint has in common with the one that saved it, as JSON has it."""
    return {
        "shape": _as_json(asdict(config.shape)),
        "data": _identity(data),
        "seq_length": config.seq_length,
        "global_batch_size": config.global_batch_size,
        "precision": config.precision,
        "seed": config.seed,
        "training": config.training.model_dump(mode="json"),
    }


def _described(data: Data | str) -> Data:
    """Samples of ours.

    Raises:
        ScenarioError: none of ours have that name.
    """
    if isinstance(data, str) and data not in NAMED:
        raise ScenarioError(f"data: {data!r} is not known; {choices(data, NAMED)}")
    return _DATA.validate_python(data)


def _identity(data: Samples) -> Any:
    """What tells samples from others, as JSON has it: all options of ours, and of a user's own the class alone."""
    if isinstance(data, str | SyntheticData | DigitsData | HuggingFaceData):
        return _described(data).model_dump(mode="json")
    return f"{type(data).__module__}.{type(data).__qualname__}"


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
