"""Which faults can be planted, by name; the faults themselves are in `faults`, or in another package. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points

from mimo_bench.errors import FaultError

GROUP = "mimo_bench.faults"
"""Entry points of this group add faults: name -> callable `plant(context)`."""

_OURS = "mimo_bench.parity.faults"
_BUILT_IN = (
    "bridge-gradient-doubled",
    "bridge-gradient-dropped",
    "encoder-gradient-scaled-by-dp-ratio",
    "encoder-gradient-not-normalised",
    "encoder-fed-other-samples",
    "encoder-reads-other-pixels",
    "exhaust-memory",
    "hang-rank",
    "image-patches-dealt-to-other-samples",
    "kill-rank",
    "layer-norm-gradients-not-reduced",
    "local-token-count",
    "replica-reduction-skipped",
    "vision-layer-skipped",
    "weights-drawn-by-shard",
    "weights-of-another-seed",
)


def known_faults() -> dict[str, str]:
    """Every fault that can be planted: its name and where its function lies, as `module:function`."""
    ours = {name: f"{_OURS}:{name.replace('-', '_')}" for name in _BUILT_IN}
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
