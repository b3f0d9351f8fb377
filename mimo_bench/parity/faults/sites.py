"""What decides whether a fault shows in a layout of a scenario: degrees, settings, batch and samples. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from mimo_bench.data import SyntheticData
from mimo_bench.layout import BatchPlan, Layout, Settings
from mimo_bench.scenario import LayoutCase, Scenario, Training

NEVER = 1e-6
"""A probability that is taken for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A layout of a scenario, by what decides whether a fault shows in it."""

    layout: Layout
    settings: Settings
    ties_embeddings: bool
    """Whether the language model's output layer is its word embedding."""
    has_uneven_items: bool
    """Whether samples surely differ in how many items they have."""
    plan: BatchPlan
    training: Training
    meets_empty_replica: bool
    """Whether a replica of some encoder surely ends a timed step with a micro-batch without any item.

    Only in the last one are gradients reduced while the backward pass still runs.
    """

    @classmethod
    def of(cls, scenario: Scenario, name: str) -> Site:
        """The layout called `name`."""
        case, data = scenario.case(name), scenario.data
        # Of files, no number of items is known before they are read.
        drawn = data if isinstance(data, SyntheticData) else None
        return cls(
            layout=case.layout,
            settings=case.settings,
            ties_embeddings=scenario.shape.language.tied_embeddings,
            plan=case.plan,
            training=scenario.training,
            has_uneven_items=drawn is not None and drawn.counts_vary,
            meets_empty_replica=drawn is not None and _meets_empty_replica(scenario, case, drawn),
        )

    @property
    def encoder_dp(self) -> int:
        """Replicas of the encoder that has most of them."""
        return max(grid.dp for grid in self.layout.encoders.values())

    @property
    def is_sharded(self) -> bool:
        """Whether the distributed optimizer deals each replica a part of the gradients."""
        return self.settings.distributed_optimizer

    def has(self, **least: int) -> bool:
        """Whether some module has at least these degrees: `tp=2, dp=2`."""
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
