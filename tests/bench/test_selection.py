"""Layouts chosen by globs and expressions; no ranks."""

from __future__ import annotations

import pytest

from mimo_bench.bench.selection import match_expression, match_globs
from mimo_bench.util.errors import UsageError

NAMES = ("colocated-dp2", "vision-dp2--language-tp2", "vision-dp2--language-pp2", "vision-tp2--language-tp2-pp2")


@pytest.mark.parametrize(
    ("expression", "indices"),
    [
        ("tp2", (1, 3)),
        ("TP2 and not pp2", (1,)),
        ("colocated or pp2 and dp2", (0, 2)),
        ("(colocated or pp2) and not vision-dp2", (0, 3)),
        ("not not colocated", (0,)),
    ],
)
def test_an_expression_is_read_as_pytest_reads_it(expression: str, indices: tuple[int, ...]) -> None:
    assert match_expression(NAMES, expression) == tuple(NAMES[index] for index in indices)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "a part of a name is missing"),
        ("tp2 and", "a part of a name is missing"),
        ("(tp2", r"'\)' is missing"),
        ("tp2 pp2", "'pp2' is not expected there"),
        ("tp8", "matches no layout; the layouts are colocated-dp2, "),
    ],
)
def test_an_expression_that_cannot_be_read_is_refused(expression: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        match_expression(NAMES, expression)


def test_globs_keep_the_order_of_the_file() -> None:
    assert match_globs(NAMES, ["*-pp2", "colocated-dp2"], option="--layout") == (NAMES[0], *NAMES[2:])
    with pytest.raises(UsageError, match="--layout: no layout is called 'audio-"):
        match_globs(NAMES, ["audio-*"], option="--layout")
