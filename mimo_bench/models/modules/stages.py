"""An encoder module whose pipeline stages all run their layers.

vision, audio -> [stages] -> encoder -> mimo

In megatron-core 0.19 every stage behind the first hands what it receives straight to the projector, past its own
layers, without an error. Here an encoder is called on every stage, with what its part of the layers continues.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.mimo.submodules.vision import VisionModalitySubmodules


class EncoderStages(VisionModalitySubmodules):
    """One pipeline stage of an encoder of any kind; the last one has the projector."""

    def forward(
        self, encoder_inputs: dict[str, Any] | None = None, hidden_states: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Run this stage.

        Args:
            encoder_inputs: keyword arguments of the encoder by its name; first stage only.
            hidden_states: what the stage before gave, [items, positions, h].

        Returns:
            [items, positions, h], and on the last stage [items * tokens, h of the language model]; None for no input.
        """
        (encoder,) = self.encoders.values()
        if hidden_states is not None:
            return self._continue(encoder, hidden_states)
        if encoder_inputs is None:
            return None
        (inputs,) = encoder_inputs.values()
        return self._finish(encoder(**inputs))

    def _continue(self, encoder: torch.nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            return self._finish(encoder(hidden_states=hidden_states))
        # Stages before a frozen one are frozen, too, and use no gradient; but the schedule sends them one.
        finished = self._finish(encoder(hidden_states=hidden_states.detach()))
        tied: torch.Tensor = _ZeroGradient.apply(finished, hidden_states)  # type: ignore[no-untyped-call]
        return tied

    def _finish(self, features: torch.Tensor) -> torch.Tensor:
        if not self.is_last_stage:
            return features
        projected: torch.Tensor = self.project_embeddings([features.flatten(0, 1)])
        return projected


class _ZeroGradient(torch.autograd.Function):
    """The first tensor; the second gets a gradient of zeros, which costs no pass through what lies between them."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(source)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (source,) = ctx.saved_tensors
        return gradients[0], torch.zeros_like(source)
