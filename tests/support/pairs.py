"""Pairwise covers of layouts: what `nox -s tests` keeps of a cross product that `nox -s nightly` runs in full.

A case has facets, such as `language.tp = more` and `placement = disjoint`. A cover shows each pair of facets that any
case of the table shows. It is computed from the table, so a layout that brings a new pair joins the cover by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pytest

from mimo_bench.layout.tables import LayoutTable
from mimo_bench.scenario.scenario import Scenario

Facets = Mapping[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]
Case = tuple[str, str]
"""Name of a scenario or family, and of a layout."""

IGNORED_ON_CPUS = {"compile_layers", "attention"}
"""Settings that change nothing on CPU ranks."""


def facets_of(table: LayoutTable, *, family: str) -> Facets:
    """Return model family, placement, degrees and settings of a layout.

    A degree is 1 or more: the parts of the code that take part in it are the same from 2 on.
    """
    layout = table.grids()
    is_first = layout.placement == "disjoint" and layout.language.rank_offset == 0
    facets = {"family": family, "placement": "language first" if is_first else layout.placement}
    facets["language.ep"] = _degree(layout.language.ep)
    for side, grids in (("encoder", list(layout.encoders.values())), ("language", [layout.language])):
        for axis in ("tp", "pp", "dp"):
            facets[f"{side}.{axis}"] = _degree(max(getattr(grid, axis) for grid in grids))
    settings = table.settings.model_dump(exclude=IGNORED_ON_CPUS)
    return facets | {name: str(value) for name, value in settings.items()}


def _degree(degree: int) -> str:
    return "1" if degree == 1 else "more"


def cases_of(scenario: Scenario, *, name: str, family: str) -> dict[Case, Facets]:
    """Return the layouts of a scenario as cases."""
    return {(name, table.name): facets_of(table, family=family) for table in scenario.layout}


def pairs_of(facets: Facets) -> set[Pair]:
    """Return every pair of facets that one case shows."""
    return set(combinations(sorted(facets.items()), 2))


def lost(cases: Mapping[Case, Facets], kept: Mapping[Case, Facets]) -> list[Pair]:
    """Return the pairs that some case shows and none of the `kept` ones does."""
    return sorted(_all_pairs(cases) - _all_pairs(kept))


def pairwise_cover(cases: Mapping[Case, Facets], ranks: Mapping[Case, int]) -> dict[Case, Facets]:
    """Return a pairwise cover: always the case next that shows most new pairs for its number of ranks."""
    cover: dict[Case, Facets] = {}
    missing = _all_pairs(cases)
    while missing:
        best = max(cases, key=lambda case: len(missing & pairs_of(cases[case])) / ranks[case])
        cover[best] = cases[best]
        missing -= pairs_of(cases[best])
    return cover


def _all_pairs(cases: Mapping[Case, Facets]) -> set[Pair]:
    return {pair for facets in cases.values() for pair in pairs_of(facets)}


def parameters(cases: Mapping[Case, Facets], cover: Mapping[Case, Facets]) -> list[Any]:
    """Return the cases for `parametrize`; those outside of the cover are left to `nox -s nightly`."""
    return [pytest.param(*case, marks=() if case in cover else pytest.mark.nightly) for case in cases]
