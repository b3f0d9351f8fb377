"""Which faults can be planted, by name; the faults themselves are in `faults`, or in another package. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal

from mimo_bench.data_section import SyntheticData
from mimo_bench.errors import FaultError
from mimo_bench.layout import BatchPlan, Layout
from mimo_bench.record.schema import Check, Mode
from mimo_bench.scenario import Scenario, Settings
from mimo_bench.training import Training

PLANTED = "was planted on purpose"
"""How the reason ends for which such a run is tainted: its numbers are no reference, but they may be judged."""

NEVER = 1e-6
"""A probability that is taken for none."""

GROUP = "mimo_bench.faults"
"""Entry points of this group add faults: name -> callable `plant(context)`."""

_OURS = "mimo_bench.parity.faults"


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
        table, data = scenario.table(name), scenario.data
        # Of files, no number of items is known before they are read.
        drawn = data if isinstance(data, SyntheticData) else None
        return cls(
            layout=table.grids(),
            settings=table.settings,
            ties_embeddings=scenario.shape.language.tied_embeddings,
            plan=scenario.batch_plan(name),
            training=scenario.training,
            has_uneven_items=drawn is not None and drawn.counts_vary,
            meets_empty_replica=drawn is not None and _meets_empty_replica(scenario, name, drawn),
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


def _meets_empty_replica(scenario: Scenario, name: str, data: SyntheticData) -> bool:
    plan = scenario.batch_plan(name)
    num_steps = scenario.steps.warmup + scenario.steps.timed
    misses = []
    for module, grid in scenario.table(name).grids().encoders.items():
        is_empty = data.share_without(module) ** plan.micro_batch_size[module]
        misses.append((1.0 - is_empty) ** (num_steps * grid.dp))
    return min(misses) < NEVER


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownFault:
    """A fault, the check that must catch it, and the layouts in which it shows at all."""

    breaks: Literal["samples", "weights", "passes", "scales", "reductions", "optimizer", "ends"]
    """The file of `faults` that it lies in."""
    caught_by: Check | Literal["oom", "timeout", "crashed"]
    modes: tuple[Mode, ...] = ("parity",)
    """In which it shows, the last of them: parity mode overlaps nothing, so what breaks an overlap shows as timed."""
    shows_in: Callable[[Site], bool] = lambda _: True


KNOWN: dict[str, KnownFault] = {
    # What is read, and what training starts from.
    "encoder-fed-other-samples": KnownFault(breaks="samples", caught_by="static"),
    "encoder-reads-other-pixels": KnownFault(breaks="samples", caught_by="static"),
    "loss-mask-shifted": KnownFault(breaks="samples", caught_by="static"),
    "shards-overlap": KnownFault(
        breaks="samples",
        caught_by="static",
        # With one sample each, replicas that begin one behind the other meet no sample twice.
        shows_in=lambda site: any(
            grid.dp > 1 and site.plan.micro_batch_size[name] > 1 for name, grid in site.layout.modules.items()
        ),
    ),
    "weights-drawn-by-shard": KnownFault(breaks="weights", caught_by="static", shows_in=lambda site: site.has(tp=2)),
    "weights-of-another-seed": KnownFault(breaks="weights", caught_by="static"),
    # A pass through the model.
    "bridge-gradient-doubled": KnownFault(breaks="passes", caught_by="gradients"),
    "bridge-gradient-dropped": KnownFault(breaks="passes", caught_by="gradients"),
    "encoder-rests-without-images": KnownFault(
        breaks="passes",
        caught_by="crashed",
        modes=("parity", "timing"),
        # Under the distributed optimizer ranks wait for each other, until the hang limit, before one can complain.
        shows_in=lambda site: (
            site.meets_empty_replica
            and site.settings.overlap_grad_reduce
            and site.layout.placement == "colocated"
            and not site.is_sharded
        ),
    ),
    "encoder-stages-skipped": KnownFault(
        breaks="passes",
        caught_by="gradients",
        shows_in=lambda site: any(grid.pp > 1 for grid in site.layout.encoders.values()),
    ),
    "image-patches-dealt-to-other-samples": KnownFault(breaks="passes", caught_by="gradients"),
    "uneven-rows-split-evenly": KnownFault(
        breaks="passes",
        caught_by="gradients",
        shows_in=lambda site: site.has_uneven_items and site.encoder_dp != site.layout.language.dp,
    ),
    "vision-layer-skipped": KnownFault(breaks="passes", caught_by="gradients"),
    # The scale of gradients.
    "encoder-gradient-averaged-over-replicas": KnownFault(
        breaks="scales", caught_by="gradients", shows_in=lambda site: site.encoder_dp > 1
    ),
    "encoder-gradient-not-normalised": KnownFault(breaks="scales", caught_by="gradients"),
    "encoder-gradient-scaled-by-dp-ratio": KnownFault(
        breaks="scales", caught_by="gradients", shows_in=lambda site: site.encoder_dp != site.layout.language.dp
    ),
    "gradient-of-one-slice-lost": KnownFault(
        breaks="scales",
        caught_by="gradients",
        shows_in=lambda site: site.layout.language.tp > 1 and not site.is_sharded,
    ),
    "gradient-of-one-stage-doubled": KnownFault(
        breaks="scales",
        caught_by="gradients",
        shows_in=lambda site: site.layout.language.pp > 1 and not site.is_sharded,
    ),
    "local-token-count": KnownFault(
        breaks="scales",
        caught_by="replicas",
        shows_in=lambda site: (
            site.layout.language.dp > 1
            and site.layout.language.tp == site.layout.language.pp == 1
            and not site.is_sharded
        ),
    ),
    "micro-batches-averaged": KnownFault(
        breaks="scales", caught_by="gradients", shows_in=lambda site: site.plan.num_micro_batches > 1
    ),
    # Sums over ranks.
    "layer-norm-gradients-not-reduced": KnownFault(
        breaks="reductions",
        caught_by="replicas",
        shows_in=lambda site: site.settings.sequence_parallel and site.layout.language.tp > 1,
    ),
    "process-groups-crossed": KnownFault(
        breaks="reductions",
        caught_by="replicas",
        shows_in=lambda site: site.has(tp=2, dp=2) and not site.is_sharded,
    ),
    "replica-reduction-skipped": KnownFault(
        breaks="reductions", caught_by="replicas", shows_in=lambda site: site.encoder_dp > 1 and not site.is_sharded
    ),
    "tied-embedding-gradients-not-reduced": KnownFault(
        breaks="reductions",
        caught_by="replicas",
        shows_in=lambda site: site.ties_embeddings and site.layout.language.pp > 1,
    ),
    # The optimizer's step.
    "clipped-by-own-norm": KnownFault(
        breaks="optimizer", caught_by="optimizer", shows_in=lambda site: site.training.clip_grad_norm > 0
    ),
    "encoder-epsilon-of-another-optimizer": KnownFault(breaks="optimizer", caught_by="optimizer"),
    "encoder-learning-rate-doubled": KnownFault(breaks="optimizer", caught_by="optimizer"),
    "encoder-weights-not-decayed": KnownFault(
        breaks="optimizer", caught_by="optimizer", shows_in=lambda site: site.training.weight_decay > 0
    ),
    # What ends a layout.
    "exhaust-memory": KnownFault(breaks="ends", caught_by="oom"),
    "hang-rank": KnownFault(breaks="ends", caught_by="timeout"),
    "kill-rank": KnownFault(breaks="ends", caught_by="crashed"),
}
"""Our own faults of correctness; those of other packages can be planted, but what must catch them only their authors
know."""

SLOW = ("bridge-bytes-doubled", "slow-rank")
"""Our own faults of speed: no verdict of parity sees them, meters and `run --gate-performance` must."""


def known_faults() -> dict[str, str]:
    """Every fault that can be planted: its name and where its function lies, as `module:function`."""
    files = {**{name: fault.breaks for name, fault in KNOWN.items()}, **dict.fromkeys(SLOW, "speed")}
    ours = {name: f"{_OURS}.{file}:{name.replace('-', '_')}" for name, file in files.items()}
    return {**{entry.name: entry.value for entry in entry_points(group=GROUP)}, **ours}


def find_fault(name: str) -> str:
    """Where the function of the fault called `name` lies.

    Raises:
        FaultError: there is none.
    """
    faults = known_faults()
    if name not in faults:
        raise FaultError(f"no fault is called {name!r}; use one of {', '.join(sorted(faults))}")
    return faults[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Planting:
    """What is planted where; nothing in a normal run."""

    fault: str | None
    """As `module:function`."""
    layout: str | None
    """The one layout to plant in; None for every layout but the baseline."""

    @classmethod
    def of(cls, words: str | None) -> Planting:
        """Read `FAULT` or `FAULT@LAYOUT`.

        Raises:
            FaultError: no such fault, or no layout behind the @.
        """
        if words is None:
            return cls(fault=None, layout=None)
        name, at, layout = words.partition("@")
        if at and not layout:
            raise FaultError(f"{words!r} names no layout behind the @; leave the @ out to plant in every layout")
        return cls(fault=find_fault(name), layout=layout or None)

    def in_layout(self, name: str) -> str | None:
        """The fault of the layout called `name`."""
        return self.fault if self.layout in (None, name) else None
