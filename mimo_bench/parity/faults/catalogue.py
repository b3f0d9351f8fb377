"""Which faults can be planted, by name; the faults themselves are in `faults`, or in another package. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal

from mimo_bench.parity.faults.sites import Site
from mimo_bench.record import Check, Mode
from mimo_bench.util import FaultError

GROUP = "mimo_bench.faults"
"""Entry points of this group add faults: name -> callable `plant(context)`."""

_OURS = "mimo_bench.parity.faults"


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
    "image-patches-dealt-to-other-samples": KnownFault(
        breaks="passes",
        caught_by="gradients",
        # Between stages of an encoder, transposed activations have a shape that the next stage refuses.
        shows_in=lambda site: all(grid.pp == 1 for grid in site.layout.encoders.values()),
    ),
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
