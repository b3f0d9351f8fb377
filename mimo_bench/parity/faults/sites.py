"""Facts that decide if a fault shows in a layout: degrees, settings, batch and samples. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from mimo_bench.data import SyntheticData
from mimo_bench.layout import BatchPlan, Layout, Settings
from mimo_bench.scenario import LayoutCase, Scenario, Training

NEVER = 1e-6
"""Probability that counts as zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Facts about a layout of a scenario, for `shows_in` of a fault."""

    layout: Layout
    settings: Settings
    ties_embeddings: bool
    """True if the language model's output layer is its word embedding."""
    has_uneven_items: bool
    """True if samples surely differ in their number of items."""
    plan: BatchPlan
    training: Training
    is_evaluated: bool
    """True if held-out samples are scored."""
    meets_empty_replica: bool
    """True if a replica of some encoder surely ends a timed step with a micro-batch without items.

    Gradients are reduced during the backward pass in the last micro-batch only.
    """

    @classmethod
    def of(cls, scenario: Scenario, name: str) -> Site:
        """Return the facts about the layout called `name`."""
        case, data = scenario.case(name), scenario.data
        # The number of items in files is unknown until they are read.
        drawn = data if isinstance(data, SyntheticData) else None
        return cls(
            layout=case.layout,
            settings=case.settings,
            ties_embeddings=scenario.shape.language.tied_embeddings,
            plan=case.plan,
            training=scenario.training,
            is_evaluated=scenario.evaluation.num_batches > 0,
            has_uneven_items=drawn is not None and drawn.counts_vary,
            meets_empty_replica=drawn is not None and _meets_empty_replica(scenario, case, drawn),
        )

    @property
    def encoder_dp(self) -> int:
        """Replicas of the encoder that has the most."""
        return max(grid.dp for grid in self.layout.encoders.values())

    @property
    def trains_projectors(self) -> bool:
        """True if the projector of every encoder is trained."""
        return all(self.training.trains(f"{name}.projector") for name in self.layout.encoders)

    @property
    def is_sharded(self) -> bool:
        """True if the distributed optimizer shards gradients over replicas."""
        return self.settings.distributed_optimizer

    def has(self, **least: int) -> bool:
        """Return True if some module has at least these degrees: `tp=2, dp=2`."""
        return any(
            all(getattr(grid, axis) >= degree for axis, degree in least.items())
            for grid in self.layout.modules.values()
        )


def _meets_empty_replica(scenario: Scenario, case: LayoutCase, data: SyntheticData) -> bool:
    num_steps = scenario.steps.warmup + scenario.steps.timed
    misses = []
    for module, grid in case.layout.encoders.items():
        is_empty = data.share_without(module) ** case.plan.micro_batch_size[module]
        misses.append((1.0 - is_empty) ** (num_steps * grid.dp))
    return min(misses) < NEVER
