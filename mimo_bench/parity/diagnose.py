"""Diagnosis of wrong gradients, moments, updates and replicas: the kind of fault, and its part of a layout."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from mimo_bench.layout import Grid, Layout
from mimo_bench.parity.compare import Judged, along_weights, relative_errors, significant
from mimo_bench.record import OptimizerDifferences, ParameterDifference

EQUAL = 1e-2
"""Relative distance within which a scale counts as a ratio of known numbers."""

CONCENTRATED = 1e-3
"""An error belongs to one shard if all other shards together hold less than this share of it."""

_LAYER = re.compile(r"\blayers\.(\d+)\.")
_AT_THE_FRONT = ("embedding",)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutFacts:
    """Facts about a layout that can explain a wrong gradient: grids, and counts of its batch."""

    grids: Mapping[str, Grid] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    """Numbers that a missing or repeated division leaves as a factor, by the thing that they count."""

    def as_ratio(self, scale: float, module: str) -> str:
        """Return the known numbers that may make up the scale of a module's gradients, as text; or nothing."""
        likely = _making(scale, self._between(module)) or _making(scale, self._own(module))
        likely += _making(scale, self._counted())
        words = likely or _making(scale, self._degrees())[:1]
        return f": {' or '.join(dict.fromkeys(words))}" if words else ""

    def _between(self, module: str) -> Iterator[tuple[float, str]]:
        """Yield ratios of two modules' data-parallel degrees: each may have averaged over its own replicas."""
        if (ours := self.grids.get(module)) is None:
            return
        for name, theirs in self.grids.items():
            if name != module:
                yield theirs.dp / ours.dp, f"{name} dp {theirs.dp} / {module} dp {ours.dp}"
                yield ours.dp / theirs.dp, f"{module} dp {ours.dp} / {name} dp {theirs.dp}"

    def _own(self, module: str) -> Iterator[tuple[float, str]]:
        """Yield the inverse of a module's data-parallel degree: it alone may have averaged over its replicas."""
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
        """Return the stage or tensor-parallel shard that all errors of a module share, as text; or nothing."""
        found = [part for part in (self._one_stage(wrong, right), _one_slice(wrong)) if part]
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
    return f"in the shard of tensor-parallel rank {worst.pop()}" if alone and len(worst) == 1 else None


def _stage(one: ParameterDifference, *, pp: int, num_layers: int) -> int:
    if (layer := _layer(one)) is not None:
        return layer * pp // num_layers
    return 0 if any(part in one.parameter for part in _AT_THE_FRONT) else pp - 1


def _layer(one: ParameterDifference) -> int | None:
    match = _LAYER.search(one.parameter)
    return int(match.group(1)) if match else None


def _equal(scale: float, ratio: float) -> bool:
    return ratio != 1.0 and math.isclose(scale, ratio, rel_tol=EQUAL)


UNIFORM = 1e-2
"""Gradients differ by one factor if the remaining error is below this share of their norm, and the factors of all
parameters agree to it."""


def explain(gradients: Sequence[ParameterDifference], *, bound: float, facts: LayoutFacts) -> str | None:
    """Explain gradients whose relative error exceeds `bound`, by module; None if there are none.

    Args:
        gradients: all parameters.
        bound: largest allowed relative error.
        facts: the layout; a wrong scale is often a ratio of its degrees.
    """
    errors = relative_errors(gradients)
    wrong = [one for one in gradients if not _within(errors[one.parameter], bound)]
    modules = dict.fromkeys(one.module for one in wrong)
    reasons = [_explain_module(module, gradients, wrong, errors, facts) for module in modules]
    return "; ".join(reasons) or None


def _explain_module(
    module: str,
    gradients: Sequence[ParameterDifference],
    wrong: Sequence[ParameterDifference],
    errors: Mapping[str, float | None],
    facts: LayoutFacts,
) -> str:
    ours = [one for one in wrong if one.module == module]
    judged = [one for one in significant(gradients) if one.module == module]
    missing = [one for one in judged if one.norm == 0.0]
    if missing:
        if len(missing) == len(judged):
            return f"every gradient of {module} is zero, first {missing[0].parameter}"
        where = facts.concentrated(missing, gradients)
        count = f"{len(missing)} of {len(judged)} gradients of {module}"
        return f"{count} {'is' if len(missing) == 1 else 'are'} zero, first {missing[0].parameter}{where}"
    if (scale := _uniform_scale(judged)) is not None:
        return f"gradients of {module}.* are {scale:.4g} x the baseline's, uniformly{facts.as_ratio(scale, module)}"
    worst = max(ours, key=lambda one: errors[one.parameter] or math.inf)
    shown = errors[worst.parameter]
    by = "are not finite" if shown is None else f"differ, most {worst.parameter} by {shown:.2g} of its norm"
    where = facts.concentrated(ours, gradients)
    return f"{len(ours)} of the gradients of {module} {by}{_scaled(ours)}{where}"


def _scaled(ours: Sequence[ParameterDifference]) -> str:
    """Return the factor by which all wrong gradients of a module are off, as text; or nothing."""
    scale = _uniform_scale([one for one in ours if one.scale is not None])
    return "" if scale is None else f", each {scale:.4g} x the baseline's"


def _uniform_scale(gradients: Sequence[ParameterDifference]) -> float | None:
    """Return the factor by which all differ from the baseline's; None if there is no such factor, or it is one."""
    scales = []
    for one in gradients:
        if one.scale is None or one.unscaled_error_norm is None or not one.norm:
            return None
        if one.unscaled_error_norm > UNIFORM * one.norm:
            return None
        scales.append(one.scale)
    if not scales or max(scales) - min(scales) > UNIFORM * abs(scales[0]):
        return None
    # A factor of one explains nothing.
    return None if math.isclose(scales[0], 1.0, rel_tol=UNIFORM) else scales[0]


def _within(error: float | None, bound: float) -> bool:
    return error is not None and error <= bound


LONGEST_WAY = 1.001
"""Largest movement of a weight relative to the longest way of AdamW; the excess is rounding of the way itself."""

FAR_LESS = 0.2
"""Errors of updates below this share of the moments' errors are a consequence of them."""

ALIKE = 0.3
"""Relative spread of one wrong factor over the parameters, which grows with each step."""


def explain_outcome(
    found: OptimizerDifferences, *, moment_bound: float, update_bound: float, along_bound: float
) -> str | None:
    """Explain wrong moments or updates, for the module in which the error began; None if nothing is wrong.

    An error of one module reaches the gradients of all modules a step later, and their moments. It hardly reaches
    their updates: Adam turns a gradient of another size into a step of the same length. Wrong updates therefore name
    the module, unless they are off by far less than the moments.

    Args:
        found: moments and updates of every parameter.
        moment_bound: largest relative error of a moment.
        update_bound: of an update.
        along_bound: of an update along the starting weights. It is sharper: a wrong weight decay points there, and
            rounding anywhere in a space of thousands of dimensions.
    """
    modules = [_Outcome.of(module, found) for module in dict.fromkeys(one.module for one in found.updates)]
    if (impossible := next((words for one in modules if (words := one.explain_impossible())), None)) is not None:
        return impossible
    if all(module.is_within(moment_bound, update_bound, along_bound) for module in modules):
        return None
    by_update = max(modules, key=lambda one: one.badness(update_bound, along_bound))
    by_moment = max(modules, key=lambda module: module.moments_off)
    if by_moment.moments_off > moment_bound and by_update.updates_off < FAR_LESS * by_moment.moments_off:
        return by_moment.explain_moments(moment_bound)
    return by_update.explain_update(update_bound)


def explain_late(judged: Sequence[Judged], *, what: str) -> str | None:
    """Explain updates by all steps, or gradients, that exceed their own bounds; None if none does.

    Args:
        judged: every parameter that has a bound.
        what: kind of the tensors, such as updates by 5 steps.
    """
    reasons = []
    wrong = [one for one in judged if one.is_wrong]
    for module in dict.fromkeys(one.difference.module for one in wrong):
        ours = [one for one in wrong if one.difference.module == module]
        num_judged = sum(one.difference.module == module for one in judged)
        worst = ours[0]
        shown = "is not finite" if math.isinf(worst.rel) else f"by {worst.rel:.2g} of its norm, bound {worst.bound:.2g}"
        factor = "" if worst.difference.norm else ", which is zero"
        if worst.difference.norm and (scale := _uniform_scale([one.difference for one in ours])) is not None:
            factor = f", each {scale:.3g} x the baseline's"
        name = worst.difference.parameter
        if len(ours) == num_judged and (scale := _about([one.difference for one in ours])) is not None:
            reasons.append(f"{what} of {module}.* are about {scale:.2g} x the baseline's")
            continue
        reasons.append(
            f"{what} of {len(ours)} of {num_judged} parameters of {module} differ, most {name} {shown}{factor}"
        )
    return "; ".join(reasons) or None


def beyond_adam(updates: Sequence[ParameterDifference]) -> list[ParameterDifference]:
    """Return updates that no gradients make at the scenario's rates, the longest first."""
    found = [one for one in updates if (one.longest_way or 0.0) > LONGEST_WAY]
    return sorted(found, key=lambda one: one.longest_way or 0.0, reverse=True)


def explain_beyond_adam(updates: Sequence[ParameterDifference]) -> str | None:
    """Explain updates that no gradients make, for the module with the longest; None if there are none."""
    if not (found := beyond_adam(updates)):
        return None
    module = found[0].module
    return _too_far(module, [one for one in found if one.module == module])


def _too_far(module: str, updates: Sequence[ParameterDifference]) -> str:
    longest = updates[0]
    return (
        f"weights in {len(updates)} parameters of {module} moved further than AdamW can at these rates, most "
        f"{longest.parameter} {longest.longest_way:.3g} x as far"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    """Moments and updates of one module."""

    module: str
    firsts: Sequence[ParameterDifference]
    seconds: Sequence[ParameterDifference]
    updates: Sequence[ParameterDifference]

    @classmethod
    def of(cls, module: str, found: OptimizerDifferences) -> _Outcome:
        parts = (found.first_moments, found.second_moments, found.updates)
        firsts, seconds, updates = ([one for one in some if one.module == module] for some in parts)
        return cls(module=module, firsts=firsts, seconds=seconds, updates=updates)

    @property
    def moments_off(self) -> float:
        return max(_worst(relative_errors(self.firsts)), _worst(relative_errors(self.seconds)))

    @property
    def updates_off(self) -> float:
        return _worst(relative_errors(self.updates, elementwise=False))

    @property
    def along_weights(self) -> float:
        return _worst(along_weights(self.updates))

    @property
    def too_far(self) -> list[ParameterDifference]:
        return beyond_adam(self.updates)

    def badness(self, update_bound: float, along_bound: float) -> tuple[bool, float]:
        """Return a key by which the module with the most wrong updates is the largest."""
        return bool(self.too_far), max(self.updates_off / update_bound, self.along_weights / along_bound)

    def is_within(self, moment_bound: float, update_bound: float, along_bound: float) -> bool:
        return (
            self.moments_off <= moment_bound
            and self.updates_off <= update_bound
            and self.along_weights <= along_bound
            and not self.too_far
        )

    def explain_impossible(self) -> str | None:
        """Explain what no AdamW of the scenario's settings does, whatever the gradients are; None if nothing is."""
        if moved := [one.parameter for one in self.updates if one.baseline_norm == 0.0 and one.norm != 0.0]:
            frozen = [one.parameter for one in self.firsts]
            if still := [name for name in moved if name not in frozen]:
                return f"{len(still)} parameters of {self.module} moved that are frozen, first {still[0]}"
        wrong = [one for one in self.updates if (one.untouched_error or 0.0) > 0.0]
        if wrong:
            worst = max(wrong, key=lambda one: one.untouched_error or 0.0)
            return (
                f"weights without any gradient moved otherwise than by their decay in {len(wrong)} parameters of "
                f"{self.module}, most {worst.parameter} by {worst.untouched_error:.2g} of the longest way of AdamW"
            )
        return None

    def explain_update(self, bound: float) -> str:
        if (scale := _about(self.updates)) is not None:
            return f"updates of {self.module}.* are about {scale:.2g} x the baseline's"
        along = along_weights(self.updates)
        if _worst(along) > self.updates_off / 2:
            name, error = max(along.items(), key=lambda item: math.inf if item[1] is None else item[1])
            shown = "beyond all numbers" if error is None else f"by {error:.2g} of its update"
            return (
                f"updates of {self.module}.* differ along the weights themselves, most {name} {shown}: "
                "another weight decay"
            )
        if self.too_far:
            return _too_far(self.module, self.too_far)
        return _most(self.module, "updates", relative_errors(self.updates, elementwise=False), bound)

    def explain_moments(self, bound: float) -> str:
        first, second = _about(self.firsts), _about(self.seconds)
        if first is not None and second is not None and math.isclose(second, first**2, rel_tol=ALIKE):
            return (
                f"first moments of {self.module}.* are about {first:.2g} x the baseline's and second moments about "
                f"{second:.2g} x, its square: gradients of another scale after the first step's, as by another clipping"
            )
        if first is None and second is not None:
            return f"second moments of {self.module}.* are about {second:.2g} x the baseline's, and first moments agree"
        firsts, seconds = relative_errors(self.firsts), relative_errors(self.seconds)
        which, errors = max((("first", firsts), ("second", seconds)), key=lambda pair: _worst(pair[1]))
        return _most(self.module, f"{which} moments", errors, bound)


def _about(differences: Sequence[ParameterDifference]) -> float | None:
    """Return the median factor to the baseline's; None if factors vary widely, or it is about one."""
    scales = [one.scale for one in significant(differences) if one.scale is not None]
    if not scales:
        return None
    middle = median(scales)
    alike = all(abs(scale - middle) <= ALIKE * abs(middle) for scale in scales)
    return middle if alike and not math.isclose(middle, 1.0, rel_tol=ALIKE / 3) else None


def _most(module: str, what: str, errors: Mapping[str, float | None], bound: float) -> str:
    wrong = {name: math.inf if error is None else error for name, error in errors.items()}
    beyond = [name for name, error in wrong.items() if error > bound]
    worst = max(wrong, key=lambda name: wrong[name])
    shown = "beyond all numbers" if math.isinf(wrong[worst]) else f"by {wrong[worst]:.2g} of its norm"
    return f"{what} of {len(beyond)} of {len(wrong)} parameters of {module} differ, most {worst} {shown}"


def _worst(errors: Mapping[str, float | None]) -> float:
    return max((math.inf if error is None else error for error in errors.values()), default=0.0)


_EXPERTS = ".experts."
"""Part of the canonical names of experts' parameters, and of no others."""


def diverged(digests: Sequence[Mapping[str, str]], layout: Layout, *, what: str) -> str | None:
    """Name the first parameter whose digests differ between two ranks; None if all ranks that hold a copy agree.

    Args:
        digests: of each rank, by canonical parameter.
        layout: relation of the ranks to each other.
        what: kind of the tensors, such as gradients.
    """
    first: dict[str, tuple[int, str]] = {}
    wrong: dict[str, tuple[int, int]] = {}
    for rank, held in enumerate(digests):
        for name, digest in held.items():
            earlier, expected = first.setdefault(name, (rank, digest))
            if digest != expected:
                wrong.setdefault(name, (earlier, rank))
    if not wrong:
        return None
    name, (one, other) = next(iter(wrong.items()))
    kind = "replicas" if _EXPERTS in name else _kind(layout, name.partition(".")[0], one, other)
    more = f", and of {len(wrong) - 1} more parameters" if len(wrong) > 1 else ""
    return f"{kind} of {name} hold different {what} on ranks {one} and {other}{more}"


def _kind(layout: Layout, module: str, one: int, other: int) -> str:
    here, there = (layout.modules[module].coordinate(rank) for rank in (one, other))
    if here.dp != there.dp:
        return "data-parallel replicas"
    return "tensor-parallel copies" if here.tp != there.tp else "copies on the first and the last stage"
