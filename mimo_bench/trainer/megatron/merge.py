"""Where rows of all modalities meet in one sequence: put to their places without asking the device where those are.

megatron-core 0.19 finds the places on the device and waits for it, three times in every forward and twice in every
backward. The host then queues an encoder's small kernels one by one on a device that has nothing else to do: of a step
on an H200, 780 ms long, that took 80. The loader knows the places.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from megatron.core.models.mimo.model.base import MimoModel

from mimo_bench.trainer.loader import TEXT
from mimo_bench.trainer.model import unwrap

_ALIGN = "align_embeddings_by_token_positions"


class Merge:
    """Stands in for the two methods of a MimoModel that embed texts and combine them with what encoders made."""

    def __init__(self, model: MimoModel) -> None:
        """Take the methods' place, unless the model is of a class that has its own."""
        self._model = model
        self._places: Mapping[str, torch.Tensor] = {}
        for name, ours in (("get_text_embeddings", self._embed_texts), (_ALIGN, self._combine)):
            if getattr(type(model), name) is getattr(MimoModel, name):
                setattr(model, name, ours)

    def expect(self, places: Mapping[str, torch.Tensor]) -> None:
        """Say where the next micro-batch has its rows, before it goes forward: `MicroBatch.places`."""
        self._places = places

    def _embed_texts(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, special_token_ids: Mapping[str, int]
    ) -> torch.Tensor:
        """The embeddings, [texts, h], of those of the tokens [b, s] that no encoder fills."""
        texts = self._places[TEXT]
        ids, positions = (column.t().flatten()[texts].unsqueeze(0) for column in (input_ids, position_ids))
        embedding = unwrap(self._model.language_model).get_submodule("embedding")
        embedded: torch.Tensor = embedding(input_ids=ids, position_ids=positions)
        return embedded.squeeze(1)

    def _combine(
        self,
        modality_embeddings: Mapping[str, torch.Tensor],
        input_ids: torch.Tensor,
        special_token_ids: Mapping[str, int],
    ) -> torch.Tensor:
        """The sequences, [s, b, h], of tokens [b, s]; each modality's rows [rows, h] come sample by sample."""
        for modality, rows in modality_embeddings.items():
            num_places = len(self._places[modality])
            assert len(rows) == num_places, f"{modality} gave {len(rows)} rows for {num_places} places"
        rows = torch.cat(list(modality_embeddings.values()))
        places = torch.cat([self._places[modality] for modality in modality_embeddings])
        num_samples, seq_length = input_ids.shape
        return torch.empty_like(rows).index_copy(0, places, rows).view(seq_length, num_samples, -1)
