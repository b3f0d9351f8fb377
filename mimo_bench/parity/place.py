"""Where in a layout a parameter lives, and which known numbers a wrong scale may be made of.

Reasons are told in these terms: a pipeline stage, a tensor-parallel slice, a ratio of degrees.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mimo_bench.layout import Grid
from mimo_bench.record import ParameterDifference

EQUAL = 1e-2
"""A scale is a ratio of known numbers if it lies this close to it."""

CONCENTRATED = 1e-3
"""An error lies in one slice alone if every other slice holds less than this share of it."""

_LAYER = re.compile(r"\blayers\.(\d+)\.")
_AT_THE_FRONT = ("embedding",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What the words of a reason need to know of a layout."""

    grids: Mapping[str, Grid] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    """Numbers that a forgotten or doubled division leaves as a factor, by what they count."""

    def as_ratio(self, scale: float, module: str) -> str:
        """What the scale of a module's gradients may be made of, in words; nothing if no known numbers make it."""
        likely = _making(scale, self._between(module)) or _making(scale, self._own(module))
        likely += _making(scale, self._counted())
        words = likely or _making(scale, self._degrees())[:1]
        return f": {' or '.join(dict.fromkeys(words))}" if words else ""

    def _between(self, module: str) -> Iterator[tuple[float, str]]:
        """Ratios of a module's data-parallel degree and another's: each took a mean over its own replicas, say."""
        if (ours := self.grids.get(module)) is None:
            return
        for name, theirs in self.grids.items():
            if name != module:
                yield theirs.dp / ours.dp, f"{name} dp {theirs.dp} / {module} dp {ours.dp}"
                yield ours.dp / theirs.dp, f"{module} dp {ours.dp} / {name} dp {theirs.dp}"

    def _own(self, module: str) -> Iterator[tuple[float, str]]:
        """A module's own data-parallel degree: it alone took a mean over its replicas."""
        if (ours := self.grids.get(module)) is not None:
            yield 1.0 / ours.dp, f"1 / {module} dp {ours.dp}"

    def _counted(self) -> Iterator[tuple[float, str]]:
        for words, count in self.counts.items():
            yield count, f"{count:g} {words}"
            yield 1.0 / count, f"1 / {count:g} {words}"

    def _degrees(self) -> Iterator[tuple[float, str]]:
        for name, grid in self.grids.items():
            for axis in ("dp", "tp", "pp"):
                degree = getattr(grid, axis)
                yield float(degree), f"{name} {axis} {degree}"
                yield 1.0 / degree, f"1 / {name} {axis} {degree}"

    def concentrated(self, wrong: Sequence[ParameterDifference], right: Sequence[ParameterDifference]) -> str:
        """That the wrong parameters of one module are all on one pipeline stage, or wrong in one slice; or nothing."""
        found = [said for said in (self._one_stage(wrong, right), _one_slice(wrong)) if said]
        return f", all {' and '.join(found)}" if found else ""

    def _one_stage(self, wrong: Sequence[ParameterDifference], right: Sequence[ParameterDifference]) -> str | None:
        module = wrong[0].module
        pp = self.grids[module].pp if module in self.grids else 1
        num_layers = 1 + max((_layer(one) or 0 for one in (*wrong, *right) if one.module == module), default=0)
        stages = {_stage(one, pp=pp, num_layers=num_layers) for one in wrong}
        if pp == 1 or len(stages) > 1:
            return None
        return f"on pipeline stage {stages.pop()} of {pp}"


def _making(scale: float, known: Iterable[tuple[float, str]]) -> list[str]:
    return [words for ratio, words in known if _equal(scale, ratio)]


def _one_slice(wrong: Sequence[ParameterDifference]) -> str | None:
    split = [one.slice_error_norms for one in wrong if one.slice_error_norms]
    if not split:
        return None
    worst = {errors.index(max(errors)) for errors in split}
    alone = all(sum(errors) - max(errors) <= CONCENTRATED * max(errors) for errors in split)
    return f"in the slice of tensor-parallel rank {worst.pop()}" if alone and len(worst) == 1 else None


def _stage(one: ParameterDifference, *, pp: int, num_layers: int) -> int:
    if (layer := _layer(one)) is not None:
        return layer * pp // num_layers
    return 0 if any(part in one.parameter for part in _AT_THE_FRONT) else pp - 1


def _layer(one: ParameterDifference) -> int | None:
    match = _LAYER.search(one.parameter)
    return int(match.group(1)) if match else None


def _equal(scale: float, ratio: float) -> bool:
    return ratio != 1.0 and math.isclose(scale, ratio, rel_tol=EQUAL)
