"""The `[training]` table: optimizer, schedule of learning rates, frozen modules. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mimo_bench.layout import LANGUAGE
from mimo_bench.util import NonNegativeFloat, NonNegativeInt, PositiveInt, ScenarioError, Share, Table, choices

PARTS = ("encoder", "projector")
"""What every module but the language model is made of; each can be frozen on its own."""


VISIBLE_DECAY = 8 * 2.0**-23
"""Share of a weight that decays in a step of parity mode at least: eight units in the last place of fp32."""


class Schedule(Table):
    """Schedule of a learning rate, as a share of the full one."""

    warmup_steps: NonNegativeInt = 0
    """Steps over which rates rise linearly: the first takes 1 / warmup_steps of the full rate, the last all of it."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the decay after the warm-up."""
    decay_steps: PositiveInt | None = None
    """Steps from the first, warm-up included, after which rates fall no more; needed unless they are constant."""
    final_rate_share: Share = 0.0
    """The share of the full rate that is left after decay_steps."""

    @model_validator(mode="after")
    def _consistent(self) -> Schedule:
        if self.decay == "constant" and self.decay_steps is not None:
            raise ValueError(
                f'decay_steps = {self.decay_steps} and decay = "constant"; set decay = "cosine", or remove decay_steps'
            )
        if self.decay != "constant" and (self.decay_steps is None or self.decay_steps <= self.warmup_steps):
            raise ValueError(
                f'decay = "{self.decay}" needs decay_steps, more of them than warmup_steps = {self.warmup_steps}'
            )
        return self

    def share_in(self, step: int) -> float:
        """The share of the full rate that the schedule leaves in `step`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay_steps is None:
            return 1.0
        progress = min(1.0, (step - self.warmup_steps) / (self.decay_steps - self.warmup_steps))
        left = 1.0 - progress if self.decay == "linear" else (1.0 + math.cos(math.pi * progress)) / 2
        return self.final_rate_share + (1.0 - self.final_rate_share) * left


class Training(Schedule):
    """The optimizer, the same in every layout: AdamW with decoupled weight decay."""

    learning_rate: NonNegativeFloat = 1e-3
    module_learning_rates: Mapping[str, NonNegativeFloat] = {}
    """Learning rates of single modules, by name."""
    # Excluded where there is none: what it was held fixed before there was such a key is the same training.
    module_schedules: Annotated[Mapping[str, Schedule], Field(exclude_if=lambda schedules: not schedules)] = {}
    """Schedules of single modules, by name; missing keys have the defaults of a schedule, not the values above."""
    freeze: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Modules that are not trained, such as `vision`, or parts of them: `vision.encoder`, `vision.projector`."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled; of every parameter that is trained, norms and biases included."""
    clip_grad_norm: NonNegativeFloat = 1.0
    """Global norm over all modules to which gradients are clipped; 0 switches clipping off."""
    adam_beta1: Share = 0.9
    adam_beta2: Share = 0.95
    adam_epsilon: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1e-8

    def check(self, *, modules: Iterable[str]) -> None:
        """Refuse names that a model of `modules` does not have, and a model of which nothing is trained.

        Raises:
            ScenarioError: naming key, value and remedy.
        """
        names = list(modules)
        parts = [f"{module}.{part}" for module in names if module != LANGUAGE for part in PARTS]
        own = [("module_learning_rates", self.module_learning_rates), ("module_schedules", self.module_schedules)]
        for key, name in ((key, name) for key, values in own for name in values):
            if name not in names:
                raise ScenarioError(f"training.{key}: {name!r} is no module; {choices(name, names)}")
            if self.is_frozen(name):
                raise ScenarioError(f"training.{key}: {name!r} is frozen; remove it there")
        for name in self.freeze:
            if name not in (*names, *parts):
                raise ScenarioError(f"training.freeze: {name!r} is not in the model; {choices(name, [*names, *parts])}")
        if all(map(self.is_frozen, names)):
            raise ScenarioError("training.freeze: nothing is left to train; remove a module from it")

    def refuse_rates_of_zero(self, *, modules: Iterable[str]) -> None:
        """Refuse a rate of zero for a module that is not frozen.

        Raises:
            ScenarioError: naming key, value and remedy.
        """
        for name in modules:
            if not self.is_frozen(name) and not self.module_learning_rates.get(name, self.learning_rate):
                key = f"module_learning_rates.{name}" if name in self.module_learning_rates else "learning_rate"
                raise ScenarioError(
                    f"training.{key} = 0.0: {name} does not train at this rate, and whatever its gradients are would "
                    f'pass; raise the rate, or set freeze = ["{name}"]'
                )

    def for_parity(self, *, modules: Iterable[str], num_steps: int) -> Training:
        """Return the training with a weight decay that fp32 weights of `modules` show in each of `num_steps` steps.

        A step multiplies a weight by 1 - rate x decay, which is 1 in fp32 for a rate of 1e-6 and a decay of 0.01. In
        parity mode every layout has a decay of `VISIBLE_DECAY` a step at least. No decay stays none.
        """
        trained = [name for name in modules if not self.is_frozen(name)]
        rates = [self.rate_of(name, step) for name in trained for step in range(num_steps)]
        smallest = min((rate for rate in rates if rate), default=math.inf)
        if not self.weight_decay or self.weight_decay * smallest >= VISIBLE_DECAY:
            return self
        return self.model_copy(update={"weight_decay": VISIBLE_DECAY / smallest})

    def is_frozen(self, module: str) -> bool:
        """True if nothing of `module` is trained."""
        parts = [f"{module}.{part}" for part in PARTS]
        return module in self.freeze or (module != LANGUAGE and not any(map(self.trains, parts)))

    def trains(self, name: str) -> bool:
        """True if the parameter, or part of a module, of this canonical `name` is trained."""
        return not any(name == frozen or name.startswith(f"{frozen}.") for frozen in self.freeze)

    def rate_of(self, module: str, step: int) -> float:
        """The learning rate of `module` in optimizer step `step`, counted from 0."""
        schedule = self.module_schedules.get(module, self)
        return self.module_learning_rates.get(module, self.learning_rate) * schedule.share_in(step)
