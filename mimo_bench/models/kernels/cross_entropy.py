"""Cross entropy over a vocabulary that tensor-parallel ranks share, from logits as they are.

megatron-core's own keeps the probability of every word in fp32, twice the bytes of bf16 logits, and goes over it once
for every operation. Here the logits themselves are kept, and each word's probability is made again where its gradient
is needed: three passes, a kernel each where `torch.compile` fuses them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class FusedCrossEntropy:
    """The loss of each position, and its gradient, on the ranks of one tensor-parallel group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Compile nothing yet: that happens at the first call, and not at all on CPU ranks."""
        self.group = group
        # Fixed shapes: sequences are padded to one length.
        self.maxima, self.sums, self.gradient = (
            torch.compile(kernel, dynamic=False) for kernel in (_maxima, _sums, _gradient)
        )

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """-log of the label's probability; collective over the group, two calls forward and none backward.

        Args:
            logits: [..., vocabulary / tp] of this rank; -inf for words that do not exist.
            labels: int64 [...], over the whole vocabulary.

        Returns:
            float32 [...], the same on every rank of the group.
        """
        losses: torch.Tensor = _FusedCrossEntropy.apply(logits, labels, self)  # type: ignore[no-untyped-call]
        return losses


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, kernels: FusedCrossEntropy) -> torch.Tensor:
        num_ranks = kernels.group.size()
        # Index of the label on this rank; outside of [0, vocabulary / tp) on all others.
        places = labels - kernels.group.rank() * logits.shape[-1]
        maxima = kernels.maxima(logits)
        if num_ranks > 1:
            dist.all_reduce(maxima, dist.ReduceOp.MAX, group=kernels.group)
        totals, own = sums = kernels.sums(logits, places, maxima)
        if num_ranks > 1:
            dist.all_reduce(sums, group=kernels.group)
        ctx.kernels = kernels
        # Apart: added up they would lose the digits that a large logit takes from a small one.
        ctx.save_for_backward(logits, places, maxima, totals)
        losses: torch.Tensor = totals.log() - own
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        of_logits: torch.Tensor = ctx.kernels.gradient(*ctx.saved_tensors, gradient)
        return of_logits, None, None


def _maxima(logits: torch.Tensor) -> torch.Tensor:
    """float32 [...]: the largest logit of each position, which keeps what follows from overflowing."""
    return logits.amax(-1).float()


def _sums(logits: torch.Tensor, places: torch.Tensor, maxima: torch.Tensor) -> torch.Tensor:
    """float32 [2, ...]: what this rank has of the sum of exponentials, and of the label's logit; less the maximum."""
    num_words = logits.shape[-1]
    is_here = (places >= 0) & (places < num_words)
    own = logits.gather(-1, places.clamp(0, num_words - 1).unsqueeze(-1)).squeeze(-1).float() - maxima
    total = (logits.float() - maxima.unsqueeze(-1)).exp().sum(-1)
    return torch.stack([total, own.where(is_here, 0.0)])


def _gradient(
    logits: torch.Tensor, places: torch.Tensor, maxima: torch.Tensor, totals: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """As the logits: the probability of each word, less one for the label, times the gradient of the position."""
    probabilities = (logits.float() - maxima.unsqueeze(-1)).exp() / totals.unsqueeze(-1)
    is_label = places.unsqueeze(-1) == torch.arange(logits.shape[-1], device=logits.device)
    return ((probabilities - is_label.float()) * gradient.unsqueeze(-1)).to(logits.dtype)
