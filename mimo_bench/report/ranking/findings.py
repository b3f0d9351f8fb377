"""Use of a layout's time, in words, with a remedy.

From idle shares and exposed communication as they were measured; where neither was,
nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator

from mimo_bench.layout import LANGUAGE
from mimo_bench.record import Communication, LayoutRecord

NOTABLE_IDLE_SHARE = 0.25
NOTABLE_EXPOSED_SHARE = 0.15
"""Below these, time is better sought elsewhere; they decide what is mentioned and nothing else."""


def findings(layout: LayoutRecord) -> tuple[str, ...]:
    """Return what costs most of the step: idle modules first, then communication that nothing hides."""
    return (*_idle(layout), *_exposed(layout))


def _idle(layout: LayoutRecord) -> Iterator[str]:
    shares = {} if layout.timing is None else layout.timing.modules
    idle = {name: timing.idle_share for name, timing in shares.items() if timing.idle_share is not None}
    if layout.placement == "colocated":
        # All modules live on the same ranks, so they idle together.
        if idle and (share := max(idle.values())) >= NOTABLE_IDLE_SHARE:
            more = " or compile_layers" if _may_compile(layout) else ""
            yield f"ranks idle {share * 100:.0f} %: larger micro-batches{more} keep them busier"
        return
    for name, share in sorted(idle.items(), key=lambda item: item[1], reverse=True):
        if share >= NOTABLE_IDLE_SHARE:
            yield f"{name} ranks idle {share * 100:.0f} %: {_remedy_of_idle(layout, name)}"


def _may_compile(layout: LayoutRecord) -> bool:
    """Return True if compiled layers are neither chosen already nor refused with the other settings."""
    chosen = (layout.settings.get(name) for name in ("compile_layers", "sequence_parallel"))
    return not any(chosen) and all(grid.ep == 1 for grid in layout.modules.values())


def _remedy_of_idle(layout: LayoutRecord, module: str) -> str:
    if module != LANGUAGE:
        return "give them fewer ranks or colocate"
    if layout.modules[module].pp > 1:
        return "more micro-batches fill its pipeline, or give the encoder more ranks"
    return "give the encoder more ranks or colocate"


def _exposed(layout: LayoutRecord) -> Iterator[str]:
    step = layout.timing.step_seconds_median if layout.timing else 0.0
    known = [(part, part.exposed_seconds) for part in layout.communication if part.exposed_seconds is not None]
    if not known or not step:
        return
    worst, seconds = max(known, key=lambda pair: pair[1])
    if (share := seconds / step) >= NOTABLE_EXPOSED_SHARE:
        said = f"{worst.role} communicates {share * 100:.0f} % of the step with nothing to hide it"
        yield f"{said}: {_remedy(worst, layout)}"


def _remedy(part: Communication, layout: LayoutRecord) -> str:
    """Return a setting that tends to shorten or hide this group's communication."""
    # `language.tp`, and `language.dp-cp` for a group over several axes.
    group = part.role.rpartition(".")[2].partition("-")[0]
    if part.role.startswith("bridge"):
        return "colocate the modules, or give both the same dp"
    return {
        "tp": "a lower tp" if layout.settings.get("sequence_parallel") else "a lower tp, or sequence_parallel",
        "dp": "overlap_grad_reduce, or a lower dp",
        "ep": "a lower ep, where memory allows",
        "expert_dp": "overlap_grad_reduce, or a higher ep",
        "pp": "more micro-batches, or a lower pp",
    }.get(group, "a layout with smaller groups")
