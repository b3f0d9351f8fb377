"""Experts train the same model wherever they are, and what goes wrong with them alone is caught and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mimo_bench.launch import Launcher
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from tests.ranks.conftest import Observed
from tests.ranks.gate import Gate

SHIPPED = load_scenario(Path(__file__).parents[2] / "scenarios" / "experts.toml")
TWICE, STAGES, TENSOR = "vision-dp2--language-dp4-ep2", "vision-1--language-tp2-pp2-ep2", "colocated-tp2-dp2-ep2"
PLAIN = "vision-1--language-dp4-ep2"
SCENARIO = Scenario.model_validate_json(
    SHIPPED.model_copy(
        update={
            "steps": SHIPPED.steps.model_copy(update={"parity": 2}),
            "layout": (
                *(SHIPPED.table(name) for name in (SHIPPED.baseline, STAGES, TENSOR, TWICE)),
                SHIPPED.table(TWICE).model_copy(
                    update={
                        "name": PLAIN,
                        "vision": SHIPPED.table(STAGES).vision,
                        "language": SHIPPED.table(TWICE).language.model_copy(update={"rank_offset": 1}),
                        "settings": SHIPPED.table(SHIPPED.baseline).settings,
                    }
                ),
            ),
        }
    ).model_dump_json()
)

CAUGHT = [
    (
        "expert_gradients_not_reduced",
        PLAIN,
        "replicas",
        "replicas of language.decoder.layers.0.mlp.experts.0.linear_fc1.weight hold different gradients on ranks 1 and",
    ),
    (
        "expert_gradients_swapped",
        PLAIN,
        "gradients",
        "4 of the gradients of language differ, most language.decoder.layers.1.mlp.experts.",
    ),
    (
        "experts_numbered_by_rank",
        STAGES,
        "static",
        "16 parameters start from other weights than the baseline's, first language.decoder.layers.0.mlp.experts.2.",
    ),
]


@pytest.fixture(scope="module")
def gate(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(launcher, SCENARIO, tmp_path_factory.mktemp("experts"))


@pytest.mark.parametrize("layout", SCENARIO.names[1:])
def test_experts_train_the_same_model_wherever_they_are(gate: Gate, layout: str) -> None:
    account = gate.judge(layout)
    assert (account.status, account.reason.split(":")[0]) == ("passed", "2 steps agree")


@pytest.mark.parametrize(("fault", "layout", "check", "words"), CAUGHT)
def test_what_goes_wrong_with_experts_alone_is_caught(
    gate: Gate, fault: str, layout: str, check: str, words: str
) -> None:
    account = gate.judge(layout, f"tests.ranks.planted:{fault}")
    assert account.status == "parity_failed"
    assert words in account.reason
    assert account.parity is not None
    assert account.parity.failed_check == check


def test_an_expert_has_its_number_in_the_layer_and_starts_alike_on_any_rank(observed: Observed) -> None:
    whole, *_ = (rank["weights"] for rank in observed(SCENARIO, SCENARIO.baseline))
    ranks = [rank["weights"] for rank in observed(SCENARIO, STAGES)]

    def experts(rank: dict[str, Any]) -> set[tuple[str, str]]:
        return {(parts[3], parts[6]) for parts in (name.split(".") for name in rank) if "experts" in parts}

    # Four layers of four experts; two layers on each of two stages, and two experts on each of a stage's ranks.
    assert experts(whole) == {(str(layer), str(expert)) for layer in range(4) for expert in range(4)}
    assert [sorted(experts(rank)) for rank in ranks[1:]] == [
        [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")],
        [("0", "2"), ("0", "3"), ("1", "2"), ("1", "3")],
        [("2", "0"), ("2", "1"), ("3", "0"), ("3", "1")],
        [("2", "2"), ("2", "3"), ("3", "2"), ("3", "3")],
    ]
    for rank in ranks:
        assert all(torch.equal(found["full"], whole[name]["full"]) for name, found in rank.items())
