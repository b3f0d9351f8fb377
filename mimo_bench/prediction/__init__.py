"""What a layout will need, from integers alone: parameters, memory and bytes on the wire. No torch, no processes.

scenario -> layout -> [prediction] -> trainer -> meters -> record: `check` prints it, the record holds it beside what
was measured, and the tests hold it against the trainer.

    parameters -> state -+
    activations ---------+-> memory
    items ---------------+
           state, items ---> step -> calls -> communication
"""

from mimo_bench.prediction.communication import CommunicationPrediction, predict_communication
from mimo_bench.prediction.items import items_by_step
from mimo_bench.prediction.memory import MemoryPredictor, RankPrediction, predict_memory
from mimo_bench.prediction.parameters import unknown_encoders

__all__ = [
    "CommunicationPrediction",
    "MemoryPredictor",
    "RankPrediction",
    "items_by_step",
    "predict_communication",
    "predict_memory",
    "unknown_encoders",
]
