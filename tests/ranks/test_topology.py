"""Groups are made by every rank in one order, once, and each says what it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.ranks.conftest import TINY, Observed

PIPELINE = "vision-dp2--language-pp2"
COLOCATED = "colocated-vision-dp2-language-tp2"
LAYOUTS = (COLOCATED, PIPELINE)
Seen = list[dict[str, Any]]

ROLES = (
    "tp", "cp", "pp", "dp", "dp-cp", "tp-cp", "tp-pp", "tp-dp-cp", "tp-cp-dp-pp",
    "ep", "expert_tp", "expert_dp", "expert_tp-ep", "expert_tp-ep-pp",
)  # fmt: skip
"""Roles of every module; together the groups of one role hold each of its ranks once."""


EMBEDDINGS = ("embedding", "position_embedding")
"""Further roles of the language model."""


@pytest.fixture(scope="module")
def seen(observed: Observed) -> Callable[[str], Seen]:
    """Return what each rank of a layout saw of groups."""
    return lambda layout: [rank["groups"] for rank in observed(TINY, layout)]


def groups(ranks: Seen, role: str | None) -> list[list[int]]:
    return [made["ranks"] for made in ranks[0]["made"] if made["role"] == role]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rank_makes_every_group_in_the_same_order_member_or_not(layout: str, seen: Callable[[str], Seen]) -> None:
    first, *others = seen(layout)
    assert len(first["made"]) > 2 * len(ROLES)
    assert all(other["made"] == first["made"] for other in others)


def test_embedding_groups_join_the_ends_of_each_pipeline_and_are_made_by_all(seen: Callable[[str], Seen]) -> None:
    ranks = seen(PIPELINE)
    assert groups(ranks, "language.embedding") == [[2, 3]]
    assert groups(ranks, "language.position_embedding") == [[2]]
    # An encoder has none.
    assert groups(ranks, "vision.embedding") == groups(ranks, "vision.position_embedding") == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_groups_of_a_role_hold_each_rank_of_the_module_once(layout: str, seen: Callable[[str], Seen]) -> None:
    for module, grid in TINY.table(layout).grids().modules.items():
        for role in ROLES:
            members = [rank for group in groups(seen(layout), f"{module}.{role}") for rank in group]
            assert sorted(members) == list(grid.ranks), role


def test_a_group_joins_the_ranks_that_differ_in_its_axes_alone(seen: Callable[[str], Seen]) -> None:
    pipeline = seen(PIPELINE)
    assert groups(pipeline, "vision.dp") == [[0, 1]]
    assert groups(pipeline, "vision.tp") == [[0], [1]]
    assert groups(pipeline, "language.pp") == groups(pipeline, "language.tp-pp") == [[2, 3]]
    assert groups(pipeline, "language.dp") == [[2], [3]]
    colocated = seen(COLOCATED)
    assert groups(colocated, "vision.dp") == groups(colocated, "language.tp") == [[0, 1]]
    assert groups(colocated, "vision.tp") == groups(colocated, "language.dp") == [[0], [1]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_groups_with_a_role_are_made_with_the_topology_and_nowhere_else(
    layout: str, seen: Callable[[str], Seen]
) -> None:
    made = seen(layout)[0]["made"]
    assert {tuple(group["maker"]) for group in made if group["role"] is not None} == {("build_topology",)}


def test_a_disjoint_model_is_built_on_those_groups_and_only_the_bridge_adds_its_own(
    seen: Callable[[str], Seen],
) -> None:
    bridge = [group for group in seen(PIPELINE)[0]["made"] if group["role"] is None]
    assert {tuple(group["maker"]) for group in bridge} == {("build_schedule",)}
    # Replicas that send, the stage that receives, and all that take part.
    assert [group["ranks"] for group in bridge] == [[0], [1], [2], [0, 1, 2]]


def test_a_colocated_model_adds_the_one_group_that_joins_replicas(seen: Callable[[str], Seen]) -> None:
    bridge = [group for group in seen(COLOCATED)[0]["made"] if group["role"] is None]
    assert [(group["ranks"], group["maker"]) for group in bridge] == [([0, 1], ["build_model"])]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_language_model_has_megatron_cores_own_key_everywhere(layout: str, seen: Callable[[str], Seen]) -> None:
    grids = TINY.table(layout).grids().modules
    for rank, found in enumerate(seen(layout)):
        assert found["names"] == {
            "megatron-core": "language",
            "all": [["language", "vision"]] * 2,
            "held": [sorted(module for module, grid in grids.items() if rank in grid.ranks)] * 2,
        }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_group_that_a_rank_is_in_says_what_it_is_for(layout: str, seen: Callable[[str], Seen]) -> None:
    modules = TINY.table(layout).grids()
    for rank, found in enumerate(seen(layout)):
        known = {f"{module}.{role}" for module in modules.modules_of(rank) for role in (*ROLES, *EMBEDDINGS)}
        assert set(found["mine"]) <= known | {"default_pg", "bridge.vision->language"}
        assert {f"{module}.tp" for module in modules.modules_of(rank)} < set(found["mine"])
    assert all("bridge.vision->language" in seen(layout)[rank]["mine"] for rank in range(2))
