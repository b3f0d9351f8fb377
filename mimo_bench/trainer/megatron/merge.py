"""Merge of all modalities' rows into one sequence, at positions that the loader knows.

megatron-core 0.19 finds the positions on the device and waits for it, three times in every forward pass and twice in
every backward. The host then launches an encoder's small kernels one by one on an idle device: on an H200 that took 80
of a step's 780 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from megatron.core.models.mimo.model.base import MimoModel

from mimo_bench.trainer.loader import TEXT, MicroBatch
from mimo_bench.trainer.model import unwrap

_ALIGN = "align_embeddings_by_token_positions"


class Merge:
    """Replaces the two methods of a MimoModel that embed texts and combine them with encoder rows."""

    def __init__(self, model: MimoModel, batch: Callable[[], MicroBatch]) -> None:
        """Replace the methods, unless the model's class overrides them; `batch` returns the one inside the model."""
        self._model, self._batch = model, batch
        for name, ours in (("get_text_embeddings", self._embed_texts), (_ALIGN, self._combine)):
            if getattr(type(model), name) is getattr(MimoModel, name):
                setattr(model, name, ours)

    def _embed_texts(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, special_token_ids: Mapping[str, int]
    ) -> torch.Tensor:
        """Embed the tokens [b, s] that no encoder fills, [texts, h]."""
        texts = self._batch().places[TEXT]
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
        """Scatter each modality's rows [rows, h], in sample order, into sequences [s, b, h] of tokens [b, s]."""
        places = self._batch().places
        for modality, rows in modality_embeddings.items():
            num_places = len(places[modality])
            assert len(rows) == num_places, f"{modality} gave {len(rows)} rows for {num_places} places"
        rows = torch.cat(list(modality_embeddings.values()))
        index = torch.cat([places[modality] for modality in modality_embeddings])
        num_samples, seq_length = input_ids.shape
        return torch.empty_like(rows).index_copy(0, index, rows).view(seq_length, num_samples, -1)
