"""Frozen weights cost no gradient and no optimizer state, and stay as they are; trained ones learn at their rate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.launch import Launcher
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.training import Training
from tests.ranks.gate import Gate
from tests.ranks.trainer_job import run_entry, scenario

LAYOUTS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "one-rank": ({}, {}),
    "vision-dp2--language-1": ({"dp": 2}, {"rank_offset": 2}),
}


def train(launcher: Launcher, folder: Path, layout: str, entry: str = "train_two_steps", **keys: Any) -> list[Any]:
    made = scenario(LAYOUTS, training=Training(**keys))
    num_ranks = run_entry(launcher, entry, made, layout, folder, module="training_entries")
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(num_ranks)]


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [
        (("vision.encoder", "language"), {"vision.projector"}),
        (("vision.encoder",), {"vision.projector", "language"}),
        (("vision.projector",), {"vision.encoder", "language"}),
        (("vision",), {"language"}),
        (("language",), {"vision.encoder", "vision.projector"}),
    ],
)
def test_what_is_frozen_stays_as_it_is_and_costs_nothing(
    launcher: Launcher, tmp_path: Path, freeze: tuple[str, ...], trained: set[str]
) -> None:
    (found,) = train(launcher, tmp_path, "one-rank", freeze=freeze, clip_grad_norm=0.05)
    assert parts(found["moved"]) == parts(found["has_gradient"]) == trained
    assert len(found["moved"]) == len(found["has_gradient"])
    assert found["in_optimizer"] == found["trained"] > 0
    # Buffers are padded to whole 64 elements a parameter at most.
    assert found["trained"] <= found["in_buffers"] <= found["trained"] + 64 * len(found["has_gradient"])
    assert found["features_need_gradient"] == [("vision.encoder" in trained)] * 4
    # The global norm is that of what is trained, and so is what is left of it after clipping.
    norms = found["grad_norms"][-1]
    assert norms.keys() == {name.split(".")[0] for name in trained}
    assert sum(norm**2 for norm in norms.values()) ** 0.5 > 0.05
    assert found["clipped_norm"] == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("freeze", [("vision",), ("language",)])
def test_a_frozen_module_on_ranks_of_its_own_trains_the_rest_as_on_one_rank(
    launcher: Launcher, tmp_path: Path, freeze: tuple[str, ...]
) -> None:
    (one,) = train(launcher, tmp_path / "one", "one-rank", freeze=freeze)
    for found in train(launcher, tmp_path / "apart", "vision-dp2--language-1", freeze=freeze):
        assert found["losses"] == pytest.approx(one["losses"], rel=1e-6)
        for norms, expected in zip(found["grad_norms"], one["grad_norms"], strict=True):
            assert norms == {module: pytest.approx(norm, rel=1e-5) for module, norm in expected.items()}
        assert (found["in_optimizer"] == 0) == (not found["has_gradient"])


def test_every_module_is_updated_at_the_rate_of_the_step(launcher: Launcher, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"learning_rate": 0.01, "module_learning_rates": {"vision": 0.002}, "warmup_steps": 2}
    language = {"language": [0.005]}, {"language": [0.01]}, {"language": [0.01]}
    vision = {"vision": [0.001]}, {"vision": [0.002]}, {"vision": [0.002]}
    found = train(launcher, tmp_path, "vision-dp2--language-1", "leave_rates", **keys)
    assert found == [list(vision), list(vision), list(language)]


def parts(names: list[str]) -> set[str]:
    """The modules, or parts of encoders, that parameters belong to."""
    return {name.split(".")[0] if name.startswith("language.") else ".".join(name.split(".")[:2]) for name in names}


def test_stage_1_trains_alike_in_every_layout(launcher: Launcher, tmp_path: Path) -> None:
    made = load_scenario(Path(__file__).parents[2] / "scenarios" / "stages.toml")
    gate = Gate(launcher, made, tmp_path)
    accounts = [gate.judge(name) for name in made.names if name != made.baseline]
    assert [account.status for account in accounts] == ["passed"] * 4, [account.reason for account in accounts]
    # Only what is trained has a gradient to compare: the projector's two weights and two biases.
    assert all("each of 4 gradients" in account.reason for account in accounts)
