"""A step asks the device for nothing, so that a GPU never waits for the host; what is fused trains the same model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimo_bench.launch import Launcher
from mimo_bench.layout.settings import Settings
from mimo_bench.scenario.scenario import Scenario
from tests.ranks.conftest import TINY, Observed
from tests.ranks.trainer_job import run_entry, scenario

WAITS = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "unique_dim", "_unique2"}
"""Operations whose outcome, or its size, the host must know; on a GPU each of them waits for it."""

LAYOUTS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "colocated": ({"dp": 2}, {"tp": 2}),
    "disjoint": ({}, {"dp": 2, "rank_offset": 1}),
}
# On CPU ranks AdamW counts steps in tensors, and reads them unless it is one kernel.
FUSED = Settings(
    fused_optimizer=True, fused_loss=True, fused_gradient_accumulation=True, fused_activation=True, fused_rope=True
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_operation_of_a_step_makes_the_host_wait(launcher: Launcher, tmp_path: Path, layout: str) -> None:
    for rank in range(run_entry(launcher, "list_operations", fused(scenario(LAYOUTS)), layout, tmp_path)):
        operations = set(json.loads((tmp_path / f"rank{rank}.json").read_text()))
        assert "mm" in operations
        assert not operations & WAITS


def test_products_that_add_weight_gradients_themselves_train_the_same_model(observed: Observed) -> None:
    plain, found = (observed(made, "colocated-vision-dp2-language-tp2")[0]["step"] for made in (TINY, fused(TINY)))
    assert found["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    for module, norm in plain["grad_norms"].items():
        assert found["grad_norms"][module] == pytest.approx(norm, rel=1e-5), module


def fused(made: Scenario) -> Scenario:
    layouts = tuple(layout.model_copy(update={"settings": FUSED}) for layout in made.layout)
    return made.model_copy(update={"layout": layouts})
