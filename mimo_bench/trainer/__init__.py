"""A full MIMO trainer on megatron-core: it trains any checked layout and knows nothing of what watches it.

    from mimo_bench.trainer import Pretraining, pretrain

What is listed here comes with torch and megatron-core, so it is imported only where somebody asks for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mimo_bench.trainer.api import Outcome, evaluate, pretrain, set_up, train
    from mimo_bench.trainer.data.sample import Dataset, Text
    from mimo_bench.trainer.device import join
    from mimo_bench.trainer.metrics import Logging
    from mimo_bench.trainer.models.mimo import Provider, build_model
    from mimo_bench.trainer.pretraining import Pretraining, Saving, Validation
    from mimo_bench.trainer.results import EvaluationTotals
    from mimo_bench.trainer.trainer import Trainer

__all__ = [
    "Dataset",
    "EvaluationTotals",
    "Logging",
    "Outcome",
    "Pretraining",
    "Provider",
    "Saving",
    "Text",
    "Trainer",
    "Validation",
    "build_model",
    "evaluate",
    "join",
    "pretrain",
    "set_up",
    "train",
]

_ROOMS: Final = {
    "Dataset": "data.sample",
    "Text": "data.sample",
    "join": "device",
    "Logging": "metrics",
    "Provider": "models.mimo",
    "build_model": "models.mimo",
    "Pretraining": "pretraining",
    "Saving": "pretraining",
    "Validation": "pretraining",
    "EvaluationTotals": "results",
    "Trainer": "trainer",
}
"""Where a name lies, if not in `api`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS.get(name, 'api')}"), name)
