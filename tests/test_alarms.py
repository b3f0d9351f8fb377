"""What a number of clean runs says about the rate of false alarms, and how their differences are drawn."""

from __future__ import annotations

import pytest

from mimo_bench.alarms import upper_bound
from mimo_bench.report.alarms import render_alarms


def test_no_alarm_in_n_runs_bounds_the_rate_by_what_would_stay_silent_once_in_twenty() -> None:
    # (1 - p) ** n = 0.05
    for num_runs in (1, 60, 420):
        assert (1.0 - upper_bound(0, num_runs)) ** num_runs == pytest.approx(0.05)


def test_one_alarm_in_ten_runs_bounds_the_rate_by_what_gives_one_or_none_once_in_twenty() -> None:
    rate = upper_bound(1, 10)
    assert (1.0 - rate) ** 10 + 10.0 * rate * (1.0 - rate) ** 9 == pytest.approx(0.05)
    assert upper_bound(10, 10) == 1.0


def test_every_difference_is_a_dot_and_the_bound_a_line() -> None:
    drawing = render_alarms({"loss": [0.01, 0.02, 0.0], "update": [0.1]})
    assert drawing.count("<circle") == 4
    assert drawing.count('class="bound"') == 1
    assert drawing.startswith("<svg")
    assert drawing.endswith("</svg>\n")
