from .api import Dataset, Outcome, Text, evaluate, pretrain, set_up, train
from .device import join
from .logging import Logging
from .model import Provider, build_model
from .pretraining import Pretraining, Saving, Validation
from .results import EvaluationTotals
from .trainer import Trainer

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
