"""Datasets by the provider that a scenario names."""

from __future__ import annotations

from mimo_bench.data.config import Data, DigitsData, HuggingFaceData, SyntheticData
from mimo_bench.data.conversations import HuggingFaceDataset
from mimo_bench.data.dataset import Dataset
from mimo_bench.data.digits import DigitsDataset
from mimo_bench.data.synthetic import SyntheticDataset
from mimo_bench.models import ModelShape


def build_dataset(data: Data, *, shape: ModelShape, seq_length: int, seed: int) -> Dataset:
    """The samples that a scenario's `data` describes, made for models of `shape`.

    Raises:
        ScenarioError: the model cannot hold them.
    """
    match data:
        case SyntheticData():
            return SyntheticDataset(data, shape=shape, seq_length=seq_length, seed=seed)
        case DigitsData():
            return DigitsDataset(shape=shape, seq_length=seq_length, seed=seed)
        case HuggingFaceData():
            return HuggingFaceDataset(data, shape=shape, seq_length=seq_length, seed=seed)
