"""An update is compared where the baseline's second moments say that its gradients are more than rounding."""

from __future__ import annotations

import math

import pytest
import torch

from mimo_bench.parity.probes.outcome import MarkedElements, longest_step
from mimo_bench.scenario.training import Training


@pytest.mark.parametrize("lengths", [(8,), (1,), (7, 7, 3), (16, 16, 9)])
def test_what_is_marked_comes_back_chunk_by_chunk(lengths: tuple[int, ...]) -> None:
    parts = [torch.rand(length) for length in lengths]
    significant = MarkedElements(0.5)
    for part in parts:
        significant.look(part)
    marks = list(significant)
    assert [mark.significant.dtype for mark in marks] == [torch.bool] * len(parts)
    assert [mark.significant.tolist() for mark in marks] == [[one > 0.5 for one in part.tolist()] for part in parts]
    assert not any(mark.untouched.any() for mark in marks)


def test_what_equals_the_bound_or_is_no_number_is_not_marked() -> None:
    significant = MarkedElements(0.5)
    significant.look(torch.tensor([0.5, math.nan, math.inf]))
    assert [mark.significant.tolist() for mark in significant] == [[False, False, True]]
    nowhere = MarkedElements(math.nan)
    nowhere.look(torch.ones(3))
    assert [mark.significant.any().item() for mark in nowhere] == [False]


def test_a_run_of_elements_without_any_gradient_is_untouched_and_one_that_is_zero_by_chance_is_not() -> None:
    marked = MarkedElements(0.5)
    marked.look(torch.tensor([0.0] * 16 + [1e-30] + [0.0] * 15 + [math.nan, 0.0]))
    marked.look(torch.zeros(3))
    assert [mark.untouched.tolist() for mark in marked] == [[True] * 16 + [False] * 18, [True] * 3]


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.95), (0.9, 0.999), (0.0, 0.5)])
def test_no_gradients_move_a_weight_further_than_the_longest_step(beta1: float, beta2: float) -> None:
    training = Training(adam_beta1=beta1, adam_beta2=beta2, adam_epsilon=1e-30, weight_decay=0.0, learning_rate=1.0)
    longest = sum(longest_step(training, step) for step in range(4))
    found = 0.0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        weights = torch.zeros(64, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.AdamW([weights], lr=1.0, betas=(beta1, beta2), eps=1e-30, weight_decay=0.0)
        for _ in range(4):
            weights.grad = torch.randn(64, generator=generator, dtype=torch.float64).exp()
            adam.step()
        found = max(found, weights.abs().max().item())
    assert 0.9 * longest < found <= longest * (1 + 1e-9)


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.0), (1.0, 0.95), (0.9, 1.0)])
def test_without_a_mean_over_gradients_no_step_has_a_longest_way(beta1: float, beta2: float) -> None:
    assert longest_step(Training(adam_beta1=beta1, adam_beta2=beta2), 1) == math.inf
