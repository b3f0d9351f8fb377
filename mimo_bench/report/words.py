"""Values on paper: numbers with units, grids in short form, and a dash for what is unknown.

HTML, Markdown and the console use the same words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from mimo_bench.layout import Grid, Layout
from mimo_bench.record import LayoutRecord, ModuleGrid, Parity, Ranked, RunRecord, Status, Timing, Tolerance
from mimo_bench.report.changes import Changes
from mimo_bench.report.compared import Compared, as_timed
from mimo_bench.report.ranking import rate_interval
from mimo_bench.util import counted

ON_CPU_RANKS = "CPU ranks share this machine's cores: no forecast for GPUs."

NO_PARITY = "parity in fp32 was not asked for (add parity to --modes)."

DASH = "\N{EN DASH}"
"""What we do not know."""

State = Status | Literal["as_timed"]
"""A status as it is shown: layouts that were held as timed alone have a word of their own."""

STATE_WORDS: dict[State, str] = {
    "passed": "passed",
    "as_timed": "as timed only",
    "parity_failed": "parity failed",
    "unjudged": "not judged",
    "oom": "out of memory",
    "timeout": "timed out",
    "crashed": "crashed",
    "interrupted": "interrupted",
    "not_run": "not run",
}
"""Every status as a person says it, in the order in which counts are given."""


def state(layout: LayoutRecord) -> State:
    """The status; `as_timed` where parity was not asked for and the timed steps lie within the noise band."""
    # Not judged and yet held as timed: only where parity was not asked for, and nothing failed.
    is_held = layout.status == "unjudged" and layout.parity is not None and layout.parity.as_timed is not None
    return "as_timed" if is_held else layout.status


def is_good(layout: LayoutRecord) -> bool:
    """Return True if nothing was found against a layout."""
    return state(layout) in ("passed", "as_timed")


def status(layout: LayoutRecord) -> str:
    """Return the end of a layout in words."""
    return STATE_WORDS[state(layout)]


def span(grid: Grid | ModuleGrid) -> str:
    """The ranks of a grid, `@0-1`, or `@0` for one."""
    first, last = min(grid.ranks), max(grid.ranks)
    return f"@{first}" if first == last else f"@{first}-{last}"


def grid(module: str, grid: Grid | ModuleGrid) -> str:
    """One module's degrees that are more than 1 and its ranks: `vision dp2 @0-1`."""
    degrees = [f"{axis}{degree}" for axis in ("tp", "cp", "pp", "dp", "ep") if (degree := getattr(grid, axis)) != 1]
    return " ".join([module, *(degrees or ["tp1"]), span(grid)])


def grids(layout: Layout | LayoutRecord) -> str:
    """Every module's grid on one line: `vision dp2 @0-1 | language tp2 @2-3`."""
    return " | ".join(grid(name, module) for name, module in layout.modules.items())


def counts(layouts: Iterable[LayoutRecord]) -> dict[State, int]:
    """Return the number of layouts that ended in each state that occurs."""
    found = Counter(map(state, layouts))
    return {each: found[each] for each in STATE_WORDS if found[each]}


def summary(layouts: Iterable[LayoutRecord]) -> str:
    """The counts as a sentence: `2 passed, 1 crashed`."""
    return ", ".join(f"{number} {STATE_WORDS[each]}" for each, number in counts(layouts).items()) or "no layouts"


def relative(value: float | None) -> str:
    """A relative difference, `2.0e-07`; an exact agreement is `0`."""
    if value is None:
        return DASH
    return f"{value:.1e}" if value else "0"


def within(value: float | None, bound: float | None, *, mean: float | None = None) -> str:
    """Return a relative difference next to its bound: `2.0e-07 of 1.0e-05`.

    With a `mean` of signed differences, also that: `..., mean +1.0e-08`.
    """
    said = relative(value) if value is None or bound is None else f"{relative(value)} of {relative(bound)}"
    return said + drift(mean)


def drift(mean: float | None) -> str:
    """A mean of signed differences behind their largest: `, mean +1.0e-08`; nothing where it is unknown."""
    return "" if mean is None else f", mean {mean:+.1e}" if mean else ", mean 0"


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None:
        return DASH
    return f"{_three_digits(value * 1e3)} ms" if value < 1.0 else f"{_three_digits(value)} s"


def rate(value: float | None) -> str:
    """A rate or a count, with thousands apart and three digits at least."""
    return DASH if value is None else _three_digits(value)


def _three_digits(value: float) -> str:
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(decimals, 0)}f}"


def decimal(value: float | None) -> str:
    """A loss."""
    return DASH if value is None else f"{value:.6f}"


def ratio(value: float) -> str:
    """Return a ratio in words."""
    return f"{value:.2f} x"


def percent(value: float | None) -> str:
    """A share, 0..1, as percent."""
    return DASH if value is None else f"{value * 100.0:.1f} %"


def size(value: float | None) -> str:
    """Bytes, in powers of 1024."""
    if value is None:
        return DASH
    for unit in ("B", "KiB", "MiB"):
        if value < 1024.0:
            return f"{_three_digits(value)} {unit}" if unit != "B" else f"{value:.0f} B"
        value /= 1024.0
    return f"{_three_digits(value)} GiB"


def text(value: object) -> str:
    """Anything else; unknown is a dash, and so is an empty text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return DASH if value is None or value == "" else str(value)


def margin(timing: Timing | None) -> str:
    """Half of the 95 % interval of a layout's rate: `+-1.9 %`; empty where that is not known."""
    interval = rate_interval(timing) if timing else None
    if timing is None or interval is None:
        return ""
    return f"\N{PLUS-MINUS SIGN}{(interval.high - interval.low) / 2.0 / timing.estimated_rate * 100.0:.1f} %"


def peak_allocated(layout: LayoutRecord) -> int | None:
    """Bytes at the peak of a layout's fullest rank."""
    return max((rank.peak_allocated_bytes for rank in layout.memory.ranks), default=None) if layout.memory else None


def verdict(layout: LayoutRecord) -> str:
    """Why a layout passed or failed, with the bands it was judged by; empty where it was not judged."""
    if (parity := layout.parity) is None:
        return ""
    # Whole, as the bounds stand behind it.
    reason = parity.reason.strip().partition("\n")[0]
    if parity.failed_check == "as_timed":
        # The reason is that of the timed steps.
        return "; ".join([f"{parity.verdict}: {reason}", *differences(as_timed(parity))])
    said = [f"{parity.verdict}: {reason}"] if parity.verdict != "unjudged" else []
    if parity.tolerance is not None:
        said.append(band(parity.tolerance))
    if parity.as_timed is not None:
        said.append(f"as timed {parity.as_timed.verdict}: {held_as_timed(parity)}")
    return "; ".join(said if parity.verdict != "unjudged" else [*said, reason])


def held_as_timed(parity: Parity) -> str:
    """Return what the timed steps proved, with the numbers; empty if nothing was timed."""
    if (timed := parity.as_timed) is None:
        return ""
    if timed.verdict == "baseline" and timed.band is not None:
        return f"{timed.reason}: {band(timed.band)}"
    return ", ".join([timed.reason, *differences(as_timed(parity))])


def differences(found: Compared) -> list[str]:
    """Return loss and worst gradient norm next to their bounds, as far as known: `loss 2.0e-07 of 1.0e-05`, ..."""
    said = [f"loss {within(found.loss_rel, found.loss_bound)}"] if found.loss_rel is not None else []
    if found.worst_grad_norm is not None:
        module, rel = found.worst_grad_norm
        said.append(f"gradient norm of {module} {within(rel, found.grad_norm_bound)}")
    return said


def pairs(found: Mapping[str, str]) -> str:
    """Names with their values on one line: `0-1 NVLink, 0-2 NODE`."""
    return ", ".join(f"{name} {value}" for name, value in found.items()) or DASH


def band(bounds: Tolerance) -> str:
    """The bounds of a verdict."""
    return f"within loss {relative(bounds.loss_rel)}, gradient norm {relative(bounds.grad_norm_rel)}"


def first_line(reason: str, *, limit: int = 240) -> str:
    """A reason cut to what fits on a line of a summary."""
    line = reason.strip().partition("\n")[0]
    return line if len(line) <= limit else f"{line[: limit - 3].rstrip()}..."


def ranked_by(record: RunRecord) -> str:
    """Return the meaning of a place in the ranking."""
    said = "By language tokens per second, padding left out, for each allocated rank, idle ones included."
    return said if record.environment.device_kind == "cuda" else f"{said} {ON_CPU_RANKS}"


def place_title(record: RunRecord) -> str:
    """Return the title of the column of places."""
    return "place" if record.environment.device_kind == "cuda" else "fastest here"


def failure(layout: LayoutRecord) -> str:
    """Return a layout that did not pass, with its reason, on one line."""
    return f"{layout.name}: {status(layout)}: {first_line(layout.reason)}"


def no_changes(changes: Changes) -> str:
    """Return the sentence for a run without listed changes."""
    if changes.not_compared is not None:
        return f"Not compared: {changes.not_compared}"
    return "Nothing moved beyond the noise."


def skipped(record: RunRecord) -> str:
    """Return the number of bad samples that were left out; empty if none was. All layouts leave out the same ones."""
    counts = {
        split: max(layout.skipped_samples.get(split, 0) for layout in record.layouts)
        for split in dict.fromkeys(split for layout in record.layouts for split in layout.skipped_samples)
    }
    return skipped_samples(counts)


def skipped_samples(counts: Mapping[str, int]) -> str:
    """Return the number of bad samples in words, from counts by split."""
    said = ", ".join(f"{number} of {split}" for split, number in counts.items() if number)
    return f"Bad samples skipped: {said}; the ranks' logs name them." if said else ""


def ranking(record: RunRecord) -> tuple[Ranked, ...]:
    """Return the places; none if something besides the layouts is in the numbers."""
    return record.ranking if record.tainted is None else ()


def recommended(record: RunRecord) -> Ranked | None:
    """Return the layout to take; None on CPU ranks, whose places do not hold for GPUs."""
    return next(iter(ranking(record)), None) if record.environment.device_kind == "cuda" else None


def none_to_take(record: RunRecord) -> str:
    """Return the sentence for a run without a recommended layout."""
    if "timing" not in record.modes:
        return "Not asked for: add timing to --modes."
    if record.tainted is not None:
        return f"None: numbers of this run are not to be compared: {record.tainted}."
    if "parity" not in record.modes:
        num_held, num_layouts = sum(state(layout) == "as_timed" for layout in record.layouts), len(record.layouts)
        return f"None is ranked: {NO_PARITY} Within the noise band as timed: {num_held} of {num_layouts}."
    if not record.ranking:
        return "None: no layout passed and was timed."
    fastest, num_cpus = record.ranking[0], record.environment.num_cpus
    world_size = next(layout.world_size for layout in record.layouts if layout.name == fastest.name)
    ranks = f"{counted(world_size, 'rank')} on {counted(num_cpus, 'core')}, {world_size / num_cpus:.3g} a core"
    return f"Nothing is recommended: {ON_CPU_RANKS} Fastest here: {fastest.name} ({ranks}), {fastest.reason}."


def going_on(*, num_layouts: int, num_kept: int) -> str:
    """Return the work that a resumed run has left."""
    return f"going on: {num_kept} of {counted(num_layouts, 'layout')} kept, {num_layouts - num_kept} to run"


def stopped_early(directory: Path) -> str:
    """Return how to finish a run that was stopped."""
    return f"stopped early; to finish it, give the same command with --resume --out {directory}"


def in_doubt(contradictions: Sequence[str], directory: Path) -> str:
    """That numbers of a record contradict each other, and who lists them all."""
    told = f"the record contradicts itself in {counted(len(contradictions), 'place')}, so do not trust these numbers: "
    return f"{told}{contradictions[0]}; mimo-bench validate {directory} lists all of them"


def learnt(record: RunRecord) -> list[str]:
    """Return the layouts' right answers on held-out samples, if the scenario sets a share of right answers."""
    wanted = record.scenario.get("evaluation", {}).get("min_answer_accuracy")
    if wanted is None:
        return []
    return [
        f"{layout.name}: {percent(layout.evaluation.answer_accuracy)} of {layout.evaluation.num_samples}, "
        f"{percent(wanted)} asked for"
        for layout in record.layouts
        if layout.evaluation is not None
    ]
