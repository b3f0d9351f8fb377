"""`nox -s tests` keeps a pairwise cover of the layouts that `nox -s nightly` trains."""

from __future__ import annotations

import pytest

from tests.parity import test_oracle
from tests.ranks import test_gpu_scenarios, test_prediction
from tests.support.pairs import Case, Facets, lost, pairs_of, pairwise_cover

COVERS = {module.__name__.rpartition(".")[2]: module for module in (test_gpu_scenarios, test_oracle, test_prediction)}


@pytest.mark.parametrize("subject", COVERS)
def test_every_pair_of_family_placement_degrees_and_settings_is_in_a_test_of_every_day(subject: str) -> None:
    cases, cover = COVERS[subject].CASES, COVERS[subject].COVER
    print(f"{subject}: {len(cover)} of {len(cases)} layouts")
    assert cover.items() <= cases.items()
    assert lost(cases, cover) == []
    # Some pairs only one layout shows: without it they would be missed.
    only = next(case for case in cover if lost(cases, {other: cover[other] for other in cover if other != case}))
    assert lost(cases, {case: cover[case] for case in cover if case != only}) != []


def test_a_cover_prefers_many_new_pairs_for_few_ranks() -> None:
    cases: dict[Case, Facets] = {
        ("a", "one"): {"tp": "1", "dp": "1", "pp": "1"},
        ("a", "wide"): {"tp": "more", "dp": "more", "pp": "1"},
        ("a", "wider"): {"tp": "more", "dp": "more", "pp": "1"},
    }
    assert pairs_of(cases["a", "one"]) == {
        (("dp", "1"), ("pp", "1")),
        (("dp", "1"), ("tp", "1")),
        (("pp", "1"), ("tp", "1")),
    }
    ranks = {("a", "one"): 1, ("a", "wide"): 4, ("a", "wider"): 8}
    cover = pairwise_cover(cases, ranks)
    assert list(cover) == [("a", "one"), ("a", "wide")]
    assert lost(cases, {("a", "one"): cases["a", "one"]}) == [
        (("dp", "more"), ("pp", "1")),
        (("dp", "more"), ("tp", "more")),
        (("pp", "1"), ("tp", "more")),
    ]
