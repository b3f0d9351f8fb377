"""One optimizer step of a layout as what ranks say to each other depends on it, and what they say. Arithmetic only.

A scenario, a layout and the items of the step's samples decide every call: `calls_*.py` list them, each with the layer
of megatron-core 0.19 that makes it, `communication.py` adds them up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mimo_bench.layout import LANGUAGE, BatchPlan, Layout, Settings
from mimo_bench.models import EncoderShape, ModelShape
from mimo_bench.predict.state import ELEMENT_BYTES
from mimo_bench.scenario import PARTS, Scenario, Training

ENCODER = PARTS[0]

Items = Mapping[str, Sequence[int]]
"""By encoder, the items of every sample of a global batch, in the order of their ids."""

Buckets = dict[tuple[object, ...], tuple[int, ...]]
"""Sizes of gradient buckets, by what decides them where model and training are the same."""

FP32_BYTES = 4
INT64_BYTES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """Calls of one collective on one group role in a step, over all ranks: a collective of four ranks is four calls."""

    role: str
    collective: str
    num_calls: int
    num_bytes: int
    """Of the tensors that the ranks put in, of all these calls; of a `recv`, of those that come."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """All that decides which calls a step makes."""

    scenario: Scenario
    shape: ModelShape
    layout: Layout
    plan: BatchPlan
    settings: Settings
    items: Items | None
    """None where samples differ in them and their numbers are unknown."""
    buckets: Buckets
    """What was worked out for other layouts of the scenario, and is the same here."""

    @classmethod
    def of(cls, scenario: Scenario, name: str, items: Items | None, *, buckets: Buckets | None = None) -> Step:
        """A step of the layout called `name` whose samples have these `items`; None if unknown."""
        case = scenario.case(name)
        return cls(
            scenario=scenario,
            shape=scenario.shape,
            layout=case.layout,
            plan=case.plan,
            settings=case.settings,
            items=items,
            buckets={} if buckets is None else buckets,
        )

    @property
    def training(self) -> Training:
        """The `[training]` table, which says what of the model is trained."""
        return self.scenario.training

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of weights and activations."""
        return ELEMENT_BYTES[self.scenario.precision]

    @property
    def row_bytes(self) -> int:
        """Bytes of one position of the language model."""
        return self.shape.language.hidden_size * self.element_bytes

    @property
    def num_language_rows(self) -> int:
        """Positions of one micro-batch on one replica of the language model."""
        return self.plan.micro_batch_size[LANGUAGE] * self.scenario.seq_length

    @property
    def num_language_passes(self) -> int:
        """Micro-batches of the step, each counted once for every replica of the language model."""
        return self.plan.num_micro_batches * self.layout.language.dp

    def rows(self, module: str, items: int) -> int:
        """Return the language positions that `items` of an encoder fill."""
        return items * self._encoder(module).num_tokens

    def replicas(self, module: str, *, of: str | None = None) -> Iterator[list[int]]:
        """Items that the samples of one micro-batch have for the encoder `module`, micro-batch by micro-batch.

        Each comes once for every replica of the encoder, or of the module `of`, with that replica's samples.
        """
        assert self.items is not None, "the number of items of the samples is unknown"
        at = module if of is None else of
        for micro_batch in range(self.plan.num_micro_batches):
            for dp_rank in range(self.layout.modules[at].dp):
                ids = self.plan.sample_ids(step=0, micro_batch=micro_batch, module=at, dp_rank=dp_rank)
                yield [self.items[module][sample] for sample in ids]

    def trains_layers(self, module: str) -> bool:
        """Return True if gradients run through a module's layers; a frozen language model passes them on, too."""
        return module == LANGUAGE or self.training.trains(f"{module}.{ENCODER}")

    def forward_passes(self, module: str) -> int:
        """Return how often a module's layer runs forward: a second time in the backward pass if it is recomputed."""
        return 2 if self.settings.recompute_activations and self.trains_layers(module) else 1

    def _encoder(self, module: str) -> EncoderShape:
        return self.shape.encoders[module]
