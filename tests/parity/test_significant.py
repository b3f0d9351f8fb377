"""An update is compared where the baseline's second moments say that its gradients are more than rounding."""

from __future__ import annotations

import math

import pytest
import torch

from mimo_bench.parity.probes.outcome import SignificantElements


@pytest.mark.parametrize("lengths", [(8,), (1,), (7, 7, 3), (16, 16, 9)])
def test_what_is_marked_comes_back_chunk_by_chunk(lengths: tuple[int, ...]) -> None:
    parts = [torch.rand(length) for length in lengths]
    significant = SignificantElements(0.5)
    for part in parts:
        significant.look(part)
    marks = list(significant)
    assert [mark.dtype for mark in marks] == [torch.bool] * len(parts)
    assert [mark.tolist() for mark in marks] == [[one > 0.5 for one in part.tolist()] for part in parts]


def test_what_equals_the_bound_or_is_no_number_is_not_marked() -> None:
    significant = SignificantElements(0.5)
    significant.look(torch.tensor([0.5, math.nan, math.inf]))
    assert [mark.tolist() for mark in significant] == [[False, False, True]]
    nowhere = SignificantElements(math.nan)
    nowhere.look(torch.ones(3))
    assert [mark.any().item() for mark in nowhere] == [False]
