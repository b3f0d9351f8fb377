"""Vision, audio and language take the same optimizer step wherever they lie, also where two encoders share a rank."""

from __future__ import annotations

import pytest

from mimo_bench.scenario.scenario import Scenario
from tests.ranks.conftest import Observed

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


@pytest.mark.parametrize("layout", SCENARIO.names[1:])
def test_three_modules_take_the_step_of_a_single_rank(layout: str, observed: Observed) -> None:
    (one_rank,) = (rank["step"] for rank in observed(SCENARIO, SCENARIO.baseline))
    assert one_rank["grad_norms"].keys() == {"vision", "audio", "language"}
    for found in (rank["step"] for rank in observed(SCENARIO, layout)):
        assert found["loss"] == pytest.approx(one_rank["loss"], rel=1e-6)
        assert found["grad_norms"] == pytest.approx(one_rank["grad_norms"], rel=1e-5)
        assert found["num_items"] == {"vision": 4, "audio": 4}
