"""The tables that a layout opens with: where its step goes by module, what its groups communicate, how it started.

Rows of words, and strips of one scale over the whole page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mimo_bench.record import Account, Communication, LayoutRecord, LinkSpeed, ModuleTiming, Timing
from mimo_bench.report import step_parts, words
from mimo_bench.report.charts.scales import Linear
from mimo_bench.report.charts.strips import axis_strip, bar_strip, strip_scale
from mimo_bench.report.links import share_of_links


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of words under heads; the first `num_names` columns are text, the others numbers."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    num_names: int = 1
    keys: tuple[tuple[str, int], ...] = ()
    """What the colours of its strips mean: a part's name and look."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDrawing:
    """Draws steps of all layouts on one scale, so that their lengths compare."""

    scale: Linear

    @classmethod
    def over(cls, layouts: Iterable[LayoutRecord]) -> StepDrawing:
        """A scale that holds the longest step of all."""
        return cls(scale=strip_scale([step_parts.longest_step(layouts)]))

    def axis(self) -> Markup:
        """The numbers of the scale."""
        return axis_strip(self.scale)

    def strip(self, parts: tuple[float, ...], name: str) -> Markup:
        """One module's step."""
        drawn = [
            (what, step_parts.LOOKS[what], value) for what, value in zip(step_parts.MODULE_PARTS, parts, strict=True)
        ]
        return bar_strip(drawn, scale=self.scale, name=name, unit="s")


def tables_of(layout: LayoutRecord, draw: StepDrawing, links: Sequence[LinkSpeed]) -> Iterator[Table]:
    """Yield the tables of one layout; `links` are the speeds of the machine's links without other load."""
    if layout.account is not None:
        yield _steps(layout, layout.account, draw)
    if layout.timing is not None and any(_has_phases(module) for module in layout.timing.modules.values()):
        yield _phases(layout.timing)
    if layout.communication:
        yield _communication(layout.communication, links)
    if layout.launches:
        yield _launches(layout)


def _steps(layout: LayoutRecord, account: Account, draw: StepDrawing) -> Table:
    rows = []
    for name, parts in _by_module_and_stage(layout, account):
        rows.append((name, draw.strip(parts, name), *map(words.seconds, parts)))
    return Table(
        title="Where a step goes, by module",
        heads=("module", Markup("seconds {}").format(draw.axis()), *step_parts.MODULE_PARTS),
        rows=tuple(rows),
        note="Mean over the ranks of the module or stage, in comm mode; a wait is for a late peer, inside a call. "
        "What a stage waits and idles is its share of the pipeline's bubble.",
        num_names=2,
        keys=tuple(step_parts.LOOKS.items()),
    )


def _by_module_and_stage(layout: LayoutRecord, account: Account) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Every module's step, and under one that is cut into stages, every stage's."""
    for module, grid in layout.modules.items():
        places = {module: None} | {
            f"{module}, stage {stage}": ranks
            for stage, ranks in enumerate(step_parts.stages(grid) if grid.pp > 1 else ())
        }
        for name, ranks in places.items():
            if (parts := step_parts.of_module(account, module, ranks)) is not None:
                yield name, parts


def _has_phases(module: ModuleTiming) -> bool:
    return module.forward_seconds is not None or module.backward_seconds is not None


def _phases(timing: Timing) -> Table:
    return Table(
        title="Phases of a timed step, by module",
        heads=("module", "forward", "backward", "optimizer", "idle share"),
        rows=tuple(
            (
                name,
                *map(words.seconds, (module.forward_seconds, module.backward_seconds, module.optimizer_seconds)),
                words.percent(module.idle_share),
            )
            for name, module in timing.modules.items()
        ),
        note="Each on the module's slowest rank, collectives inside it included.",
    )


def _launches(layout: LayoutRecord) -> Table:
    return Table(
        title="Start-up",
        heads=("mode", "start", "set-up", "first step", "gap"),
        rows=tuple(
            (
                launch.mode,
                words.seconds(launch.start_seconds),
                words.seconds(launch.setup_seconds),
                words.seconds(launch.first_step_seconds),
                words.seconds(launch.gap_seconds),
            )
            for launch in layout.launches
        ),
        note="start: until every rank runs its first line; set-up: from there to the first step; gap: since the last "
        "launch's last step.",
    )


def _communication(parts: Sequence[Communication], links: Sequence[LinkSpeed]) -> Table:
    heads = ("group", "collective", "ranks", "calls", "bytes", "time", "transfer", "wait", "exposed", "bus", "of link")
    note = "Calls and bytes over all ranks; times on the rank that spends most, waiting for late peers included."
    return Table(
        title="Communication per step, by group",
        heads=heads if links else heads[:-1],
        rows=tuple(
            (*_communicated(part), *((words.percent(share_of_links(part, parts, links)),) if links else ()))
            for part in parts
        ),
        note=f"{note} Of link: against this machine's bandwidth at that message size, measured alone."
        if links
        else note,
        num_names=2,
    )


def _communicated(part: Communication) -> tuple[str, ...]:
    times = (part.seconds_per_step, part.transfer_seconds, part.wait_seconds, part.exposed_seconds)
    bus = part.bus_bytes_per_second
    return (
        f"{part.role}, across hosts" if part.spans_hosts else part.role,
        part.collective,
        str(part.group_size or words.DASH),
        words.rate(part.calls_per_step),
        words.size(part.bytes_per_step),
        *map(words.seconds, times),
        words.DASH if bus is None else f"{words.size(bus)}/s",
    )
