"""A function of a test file runs on ranks, as the page on tests shows it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from mimo_bench.launch import Launcher
from mimo_bench.trainer import join
from tests.support.ranks import on_ranks

PAGE = Path(__file__).parents[2] / "docs" / "contributing" / "tests.md"


@on_ranks(2)
def add_up() -> float:
    join("cpu")
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    return total.item()


def test_ranks_add_up(launcher: Launcher, tmp_path: Path) -> None:
    assert add_up(launcher, tmp_path) == [2.0, 2.0]


@on_ranks(1)
def fail(reason: str) -> None:
    raise ValueError(reason)


def test_a_function_that_fails_on_a_rank_fails_the_test_with_its_traceback(launcher: Launcher, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)rank 0 raised ValueError: no reason.*in fail"):
        fail(launcher, tmp_path, reason="no reason")


def test_the_page_shows_this_very_test() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for function in (add_up.body, test_ranks_add_up):
        assert inspect.getsource(function) in page
