"""Vision, audio and language take the same optimizer step wherever they lie, also where two encoders share a rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.launch import Launcher
from mimo_bench.scenario.scenario import Scenario
from tests.ranks.trainer_job import run_entry

SCENARIO = Scenario.model_validate(
    {
        "question": "Does every layout take the same step?",
        "model": "llava-audio-tiny",
        "global_batch_size": 4,
        "global_micro_batch_size": 2,
        "seq_length": 48,
        "baseline": "one-rank",
        "layout": [
            {"name": "one-rank", "vision": {}, "audio": {}, "language": {}},
            {"name": "three-spans", "vision": {}, "audio": {"rank_offset": 1}, "language": {"rank_offset": 2}},
            {
                "name": "encoders-share",
                "vision": {},
                "audio": {},
                "language": {"dp": 2, "rank_offset": 1},
                "settings": {"distributed_optimizer": True, "overlap_grad_reduce": True},
            },
            {
                "name": "encoders-share-and-language-is-first",
                "language": {"tp": 2},
                "vision": {"dp": 2, "rank_offset": 2},
                "audio": {"tp": 2, "rank_offset": 2},
            },
        ],
    }
)


@pytest.fixture(scope="module")
def one_rank(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The step of a single rank."""
    (step,) = steps(launcher, "one-rank", tmp_path_factory.mktemp("one-rank"))
    return step


def steps(launcher: Launcher, layout: str, folder: Path) -> list[dict[str, Any]]:
    num_ranks = run_entry(launcher, "take_a_step", SCENARIO, layout, folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(num_ranks)]


@pytest.mark.parametrize("layout", SCENARIO.names[1:])
def test_three_modules_take_the_step_of_a_single_rank(
    layout: str, one_rank: dict[str, Any], launcher: Launcher, tmp_path: Path
) -> None:
    assert one_rank["grad_norms"].keys() == {"vision", "audio", "language"}
    for found in steps(launcher, layout, tmp_path):
        assert found["loss"] == pytest.approx(one_rank["loss"], rel=1e-6)
        assert found["grad_norms"] == pytest.approx(one_rank["grad_norms"], rel=1e-5)
        assert found["num_items"] == {"vision": 4, "audio": 4}
