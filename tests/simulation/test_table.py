"""The committed table of false alarms and detections is what today's judgement makes of the made-up histories.

`nox -s simulation`; kept apart from the tests, because it judges 36,000 nights, for some minutes.
"""

from __future__ import annotations

from pathlib import Path

from tests.simulation.simulate import report

PAGE = Path(__file__).parents[2] / "docs" / "simulated-history.md"


def test_the_table_comes_out_as_it_is_committed() -> None:
    anew = "run python -m tests.simulation.simulate docs/simulated-history.md, and say in the changelog what changed"
    assert PAGE.read_text(encoding="utf-8") == report(), anew
