from .communication import CommunicationPrediction, predict_communication
from .items import items_by_step
from .memory import MemoryPredictor, ModulePrediction, RankPrediction, predict_memory
from .step import Buckets
from .validate import contradictions, validate

__all__ = [
    "Buckets",
    "CommunicationPrediction",
    "MemoryPredictor",
    "ModulePrediction",
    "RankPrediction",
    "contradictions",
    "items_by_step",
    "predict_communication",
    "predict_memory",
    "validate",
]
