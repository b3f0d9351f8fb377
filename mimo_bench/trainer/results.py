"""What a step and an evaluation give, the same on every rank. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One optimizer step over the whole job; the same on every rank."""

    loss: float
    """Mean cross-entropy per answer token."""
    grad_norms: dict[str, float]
    """Before clipping, by module that is trained."""
    num_tokens: int
    """Language positions that are not padding."""
    num_token_pairs: int
    """Sum over samples of the squared number of those positions."""
    num_items: dict[str, int]
    """What encoders read, such as images, by encoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationTotals:
    """Held-out samples scored without training on them; the same on every rank."""

    loss: float
    """Mean cross-entropy per answer token."""
    answer_accuracy: float
    """Share of answer tokens that the model ranks first."""
    num_samples: int
