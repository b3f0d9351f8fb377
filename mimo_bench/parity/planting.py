"""Which faults can be planted, by name; the faults themselves are in `faults`, or in another package. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal

from mimo_bench.errors import FaultError
from mimo_bench.layout import Layout
from mimo_bench.record.schema import Check
from mimo_bench.scenario import Settings

PLANTED = "was planted on purpose"
"""How the reason ends for which such a run is tainted: its numbers are no reference, but they may be judged."""

GROUP = "mimo_bench.faults"
"""Entry points of this group add faults: name -> callable `plant(context)`."""

_OURS = "mimo_bench.parity.faults"


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownFault:
    """A fault, the check that must catch it, and the layouts in which it shows at all."""

    caught_by: Check | Literal["oom", "timeout", "crashed"]
    shows_in: Callable[[Layout, Settings], bool]


def _everywhere(_: Layout, __: Settings) -> bool:
    return True


def _encoder_dp(layout: Layout) -> int:
    return max(grid.dp for grid in layout.encoders.values())


KNOWN: dict[str, KnownFault] = {
    "bridge-gradient-doubled": KnownFault(caught_by="gradients", shows_in=_everywhere),
    "bridge-gradient-dropped": KnownFault(caught_by="gradients", shows_in=_everywhere),
    "encoder-gradient-not-normalised": KnownFault(caught_by="gradients", shows_in=_everywhere),
    "encoder-gradient-scaled-by-dp-ratio": KnownFault(
        caught_by="gradients", shows_in=lambda layout, _: _encoder_dp(layout) != layout.language.dp
    ),
    "clipped-by-own-norm": KnownFault(caught_by="optimizer", shows_in=_everywhere),
    "encoder-epsilon-of-another-optimizer": KnownFault(caught_by="optimizer", shows_in=_everywhere),
    "encoder-learning-rate-doubled": KnownFault(caught_by="optimizer", shows_in=_everywhere),
    "encoder-weights-not-decayed": KnownFault(caught_by="optimizer", shows_in=_everywhere),
    "encoder-fed-other-samples": KnownFault(caught_by="static", shows_in=_everywhere),
    "encoder-stages-skipped": KnownFault(
        caught_by="gradients", shows_in=lambda layout, _: any(grid.pp > 1 for grid in layout.encoders.values())
    ),
    "encoder-reads-other-pixels": KnownFault(caught_by="static", shows_in=_everywhere),
    "gradient-of-one-slice-lost": KnownFault(
        caught_by="gradients",
        shows_in=lambda layout, how: layout.language.tp > 1 and not how.distributed_optimizer,
    ),
    "gradient-of-one-stage-doubled": KnownFault(
        caught_by="gradients",
        shows_in=lambda layout, how: layout.language.pp > 1 and not how.distributed_optimizer,
    ),
    "loss-mask-shifted": KnownFault(caught_by="static", shows_in=_everywhere),
    "micro-batches-averaged": KnownFault(caught_by="gradients", shows_in=_everywhere),
    "image-patches-dealt-to-other-samples": KnownFault(caught_by="gradients", shows_in=_everywhere),
    "layer-norm-gradients-not-reduced": KnownFault(
        caught_by="replicas", shows_in=lambda layout, how: how.sequence_parallel and layout.language.tp > 1
    ),
    "local-token-count": KnownFault(
        caught_by="replicas",
        shows_in=lambda layout, _: layout.language.dp > 1 and layout.language.tp == layout.language.pp == 1,
    ),
    "replica-reduction-skipped": KnownFault(
        caught_by="replicas", shows_in=lambda layout, how: _encoder_dp(layout) > 1 and not how.distributed_optimizer
    ),
    "vision-layer-skipped": KnownFault(caught_by="gradients", shows_in=_everywhere),
    "weights-drawn-by-shard": KnownFault(
        caught_by="static", shows_in=lambda layout, _: any(grid.tp > 1 for grid in layout.modules.values())
    ),
    "weights-of-another-seed": KnownFault(caught_by="static", shows_in=_everywhere),
    "exhaust-memory": KnownFault(caught_by="oom", shows_in=_everywhere),
    "hang-rank": KnownFault(caught_by="timeout", shows_in=_everywhere),
    "kill-rank": KnownFault(caught_by="crashed", shows_in=_everywhere),
}
"""Our own faults of correctness; those of other packages can be planted, but what must catch them only their authors
know."""

SLOW = ("bridge-bytes-doubled", "slow-rank")
"""Our own faults of speed: no verdict of parity sees them, meters and `run --gate-performance` must."""


def known_faults() -> dict[str, str]:
    """Every fault that can be planted: its name and where its function lies, as `module:function`."""
    ours = {name: f"{_OURS}:{name.replace('-', '_')}" for name in (*KNOWN, *SLOW)}
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
