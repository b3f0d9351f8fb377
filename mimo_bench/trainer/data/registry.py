"""Datasets by the name that a scenario gives them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from mimo_bench.errors import ScenarioError
from mimo_bench.model import ModelShape
from mimo_bench.suggest import choices
from mimo_bench.trainer.data.digits import DigitsDataset
from mimo_bench.trainer.data.sample import Dataset
from mimo_bench.trainer.data.synthetic import SyntheticDataset

DATASETS: Final[dict[str, Callable[..., Dataset]]] = {
    "synthetic": SyntheticDataset,
    "synthetic-filled": partial(SyntheticDataset, shortest_text=1.0),
    "digits": DigitsDataset,
}


def build_dataset(name: str, *, shape: ModelShape, seq_length: int, seed: int) -> Dataset:
    """The samples called `name`, made for models of `shape`; nothing is read yet.

    Raises:
        ScenarioError: no dataset has that name, or the model cannot hold its samples.
    """
    if (build := DATASETS.get(name)) is None:
        raise ScenarioError(f"data: {name!r} is not known; {choices(name, DATASETS)}")
    return build(shape=shape, seq_length=seq_length, seed=seed)
