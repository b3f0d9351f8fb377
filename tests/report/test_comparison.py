"""The tests behind a judgement, on numbers that can be worked out by hand."""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb

import pytest

from mimo_bench.report.history.changepoints import change_points
from mimo_bench.report.history.comparison import by_band, by_launches, discoveries


def test_five_launches_all_slower_than_five_have_the_exact_p_of_two_in_252() -> None:
    found = by_launches((1.0, 1.01, 1.02, 1.03, 1.04), (1.2, 1.21, 1.22, 1.23, 1.24))
    assert found.p == pytest.approx(float(Fraction(2, comb(10, 5))))
    assert found.ratio == pytest.approx(1.22 / 1.02)
    assert found.is_large


def test_launches_that_are_all_equal_prove_nothing() -> None:
    assert by_launches((1.0,) * 4, (1.0,) * 4).p == 1.0


def test_ties_keep_the_exact_distribution() -> None:
    # Of 70 ways to choose 4 of 8, the most extreme to either side are 2; one tie across the groups leaves that.
    assert by_launches((1.0, 1.0, 1.1, 1.2), (2.0, 2.0, 2.1, 2.2)).p == pytest.approx(2 / 70)


def test_an_outlier_among_the_nights_neither_moves_the_level_nor_widens_the_band() -> None:
    nights = (1.00, 1.01, 0.99, 1.01, 0.99, 1.00, 1.01, 0.99, 1.00, 1.00)
    calm, spoilt = by_band(nights, 1.2), by_band((*nights[:-1], 5.0), 1.2)
    assert calm.ratio == pytest.approx(1.2)
    assert spoilt.ratio == pytest.approx(1.2)
    assert spoilt.p < 1e-3
    assert spoilt.spread == pytest.approx(calm.spread, rel=0.6)


def test_slower_and_faster_by_the_same_ratio_are_equally_unlikely() -> None:
    nights = (1.00, 1.02, 0.98, 1.01, 0.99, 1.03, 0.97, 1.00)
    assert by_band(nights, 1.1).p == pytest.approx(by_band(nights, 1 / 1.1).p)


def test_equal_nights_do_not_make_every_further_night_a_surprise() -> None:
    assert by_band((1.0,) * 20, 1.003).p > 0.1
    assert not by_band((1.0,) * 20, 1.02).is_large


def test_false_discoveries_are_controlled_over_the_matrix() -> None:
    # Benjamini and Hochberg's own rule: the largest k with p_k <= 0.05 k / n.
    assert discoveries([0.001, 0.013, 0.029, 0.04, 0.9]) == [True, True, True, True, False]
    assert discoveries([0.04, 0.5, 0.6, 0.7, 0.9]) == [False] * 5
    assert discoveries([]) == []


def test_a_new_level_is_found_at_its_first_night_in_spite_of_outliers() -> None:
    draw = random.Random(1)
    nights = [draw.gauss(1.0, 0.01) for _ in range(40)] + [draw.gauss(1.1, 0.01) for _ in range(30)]
    nights[10], nights[50] = 3.0, 0.2
    (found,) = change_points(nights)
    assert abs(found - 40) <= 1


def test_a_level_that_comes_back_has_two_changes() -> None:
    draw = random.Random(2)
    levels = [1.0] * 30 + [1.2] * 20 + [1.0] * 30
    found = change_points([draw.gauss(level, 0.01) for level in levels])
    assert len(found) == 2
    assert all(abs(cut - true) <= 1 for cut, true in zip(found, (30, 50), strict=True))


@pytest.mark.parametrize("num", [0, 1, 5, 9, 60])
def test_noise_and_short_series_have_no_change_points(num: int) -> None:
    draw = random.Random(3)
    assert change_points([draw.gauss(1.0, 0.01) for _ in range(num)]) == []
    assert change_points([1.0] * num) == []
