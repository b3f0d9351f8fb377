"""Names of the faults that can be planted, with their checks, read from the decorators in this folder. No torch."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

from mimo_bench.parity.faults.sites import Site
from mimo_bench.record import Check, Mode
from mimo_bench.util import FaultError

GROUP = "mimo_bench.faults"
"""Entry points of this group add faults: name -> callable `plant(context)`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class fault:  # noqa: N801  # a decorator, in lower case as those of `contextlib`
    """Declare the function below as a fault; its name with dashes is the fault's.

    Commands must not import torch, and faults do. So `KNOWN` evaluates the decorator from the source of the file: its
    arguments may use no name of the file's.
    """

    caught_by: Check | Literal["oom", "timeout", "crashed"] | None
    """Check that must catch it; None for a fault of speed, which leaves every number right."""
    modes: tuple[Mode, ...] = ("parity",)
    """Modes to run, the last of which shows it: parity mode overlaps nothing, so a broken overlap shows as timed."""
    shows_in: Callable[[Site], bool] = lambda _: True
    """Return True for a layout in which the fault changes anything."""
    alone: bool = False
    """True if it ends ranks or makes process groups, so that no other fault may share its launch."""

    def __call__[**P](self, plant: Callable[P, None]) -> Callable[P, None]:
        """Return the function as it is."""
        return plant


def faults_in(folder: Path, package: str) -> Iterator[tuple[str, str, fault]]:
    """Yield the name of each fault in a folder, its place as `module:function`, and what its decorator declares."""
    for file in sorted(folder.glob("*.py")):
        for part in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(part, ast.FunctionDef):
                place = f"{package}.{file.stem}:{part.name}"
                yield from ((part.name.replace("_", "-"), place, found) for found in _decorators(part, file))


def _decorators(function: ast.FunctionDef, file: Path) -> Iterator[fault]:
    for call in function.decorator_list:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == fault.__name__:
            declared: fault = eval(compile(ast.Expression(call), file, "eval"), {fault.__name__: fault})
            yield declared


_DECLARED = list(faults_in(Path(__file__).parent, __name__.rpartition(".")[0]))

_PLACES = {name: place for name, place, _ in _DECLARED}

KNOWN = {name: declared for name, _, declared in _DECLARED if declared.caught_by is not None}
"""Built-in faults of correctness. Faults of other packages can be planted, but only their authors know the check."""

SLOW = tuple(name for name, _, declared in _DECLARED if declared.caught_by is None)
"""Built-in faults of speed: no check of parity sees them; meters and `run --gate-performance` must."""


def known_faults() -> dict[str, str]:
    """Return every fault that can be planted: its name and its function, as `module:function`."""
    return {**{entry.name: entry.value for entry in entry_points(group=GROUP)}, **_PLACES}


def find_fault(name: str) -> str:
    """Return the function of the fault called `name`, as `module:function`.

    Raises:
        FaultError: there is no such fault.
    """
    faults = known_faults()
    if name not in faults:
        raise FaultError(f"no fault is called {name!r}; use one of {', '.join(sorted(faults))}")
    return faults[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Planting:
    """A fault and the layouts to plant it in; neither in a normal run."""

    fault: str | None
    """As `module:function`."""
    layout: str | None
    """The only layout to plant in; None for every layout but the baseline."""

    @classmethod
    def of(cls, words: str | None) -> Planting:
        """Read `FAULT` or `FAULT@LAYOUT`.

        Raises:
            FaultError: there is no such fault, or no layout after the @.
        """
        if words is None:
            return cls(fault=None, layout=None)
        name, at, layout = words.partition("@")
        if at and not layout:
            raise FaultError(f"{words!r} names no layout after the @; leave the @ out to plant in every layout")
        return cls(fault=find_fault(name), layout=layout or None)

    def in_layout(self, name: str) -> str | None:
        """Return the fault of the layout called `name`, if any."""
        return self.fault if self.layout in (None, name) else None
