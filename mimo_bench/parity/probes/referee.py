"""An independent referee: `transformers` runs the same model, weights and samples, and says what gradients ought to be.

Layouts are compared with the baseline, so a mistake that every layout makes would pass; it does not pass here. Nothing
of ours computes on this side: samples are padded and labelled in `transformers`' own way and scored by its own loss.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from mimo_bench.data import PAD, Text

Tensors = Mapping[str, torch.Tensor]
Samples = Sequence[tuple[torch.Tensor, Text]]
"""The pixels and the text of every sample of a global batch."""

NOT_SCORED = -100
"""A label that `transformers` leaves out of the loss."""

FLOOR_SHARE = 1e-3
"""Of its module's gradient norm: what a gradient that ought to be zero is measured against.

A key bias without rotary positions shifts all scores of a query alike, which a softmax does not see: its gradient is
zero but for rounding.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """Results of one forward and backward pass over a global batch."""

    loss: float
    gradients: Tensors
    """By the names of `transformers`."""
    logits: Mapping[int, torch.Tensor] = field(default_factory=dict)
    """By sample, counted from 0: [tokens, vocabulary]; empty where they are not compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deviation:
    """Relative difference of a pass from the referee's."""

    loss: float
    gradients: Mapping[str, float]
    logits: float
    """Of the sample that is furthest off: the norm of the difference, relative to the norm."""

    @property
    def worst_gradient(self) -> tuple[str, float]:
        """The parameter whose gradient is furthest off, and by how much; what is not a number is off more than any."""
        return max(self.gradients.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1])

    @property
    def largest(self) -> float:
        """The largest of all errors, of logits, loss and gradients."""
        return max(self.logits, self.loss, self.worst_gradient[1])


def build_referee(
    config: Mapping[str, Any],
    weights: Tensors,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """The model of `transformers`, as it reads a configuration itself.

    Args:
        config: what a config.json holds.
        weights: by the names of `transformers`; what LLaVA has and does not read may be missing.
        dtype: of the computation; RMSNorm, rotary angles and loss stay in float32 in any case.
        device: where; the host if None.
    """
    with torch.device(device or "cpu"):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config))
    # One expert after the other: its grouped products take no float64.
    model.set_experts_implementation("eager")
    model.to(dtype)  # type: ignore[arg-type]  # transformers' wrapper of `to` is annotated as if it were not bound
    _, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    return model


def run_referee(
    model: PreTrainedModel,
    samples: Samples,
    *,
    at_once: int | None = None,
    keep_logits: bool = True,
    on_part: Callable[[], None] = lambda: None,
) -> Pass:
    """Forward and backward over a global batch; the loss is the mean over all answer tokens.

    Args:
        model: the referee.
        samples: of the batch.
        at_once: as many samples go through the model together; all of them if None.
        keep_logits: whether the logits of every sample are returned.
        on_part: called whenever samples went through.
    """
    model.zero_grad()
    logits: dict[int, torch.Tensor] = {}
    loss, num_scored = 0.0, _num_scored(samples)
    for part in batched(enumerate(samples), at_once or len(samples)):
        output = forward(model, [sample for _, sample in part])
        share = output.loss * (_num_scored([sample for _, sample in part]) / num_scored)
        share.backward()
        loss += share.item()
        if keep_logits:
            logits |= {k: output.logits[row, : len(text.tokens)].detach() for row, (k, (_, text)) in enumerate(part)}
        on_part()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return Pass(loss=loss, gradients=gradients, logits=logits)


def forward(model: PreTrainedModel, samples: Samples) -> Any:
    """The model on all samples at once, padded and labelled in its own way."""
    pixels, texts = zip(*samples, strict=True)
    pad, images = torch.nn.utils.rnn.pad_sequence, torch.cat(pixels)
    return model(
        pixel_values=images.to(model.device, model.dtype) if len(images) else None,
        input_ids=pad([text.tokens for text in texts], batch_first=True, padding_value=PAD).to(model.device),
        labels=pad(
            [text.tokens.where(text.is_answer, NOT_SCORED) for text in texts],
            batch_first=True,
            padding_value=NOT_SCORED,
        ).to(model.device),
    )


def _num_scored(samples: Samples) -> int:
    # A token is predicted from the one before it, so the first of a text never is.
    return sum(int(text.is_answer[1:].sum()) for _, text in samples)


def deviation(ours: Pass, referee: Pass) -> Deviation:
    """Return the relative difference of `ours` from the referee's pass.

    A gradient's error is the norm of the difference, relative to the larger of the gradient's own norm and
    FLOOR_SHARE of its module's.
    """
    assert set(ours.gradients) == set(referee.gradients), set(ours.gradients) ^ set(referee.gradients)
    norms = module_norms(referee.gradients)
    errors = {}
    for name, expected in referee.gradients.items():
        floor = FLOOR_SHARE * norms[module_of(name)]
        off = float((ours.gradients[name].to(expected.device) - expected).norm())
        errors[name] = off / max(float(expected.norm()), floor) if off else 0.0
    logits = [float((ours.logits[k] - expected).norm() / expected.norm()) for k, expected in referee.logits.items()]
    return Deviation(
        loss=abs(ours.loss - referee.loss) / abs(referee.loss), gradients=errors, logits=max(logits, default=0.0)
    )


def module_norms(gradients: Tensors) -> dict[str, float]:
    """The norm of the gradient of each module."""
    squares: defaultdict[str, float] = defaultdict(float)
    for name, gradient in gradients.items():
        squares[module_of(name)] += float(gradient.norm()) ** 2
    return {module: square**0.5 for module, square in squares.items()}


def module_of(name: str) -> str:
    """Our module that a parameter of `transformers` is in."""
    if name.startswith("model.audio_"):
        return "audio"
    return "language" if name.startswith(("model.language_model.", "lm_head.")) else "vision"
