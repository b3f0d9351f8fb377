"""What a layout will need, from integers alone: parameters, memory and bytes on the wire. No torch, no processes.

scenario -> layout -> [prediction] -> trainer -> meters -> record: `check` prints it, the record holds it beside what
was measured, and the tests hold it against the trainer.

    parameters -> state -+
    activations ---------+-> memory
    items ---------------+
           state, items ---> step -> calls -> communication
"""

from mimo_bench.models.parameters import unknown_encoders
from mimo_bench.predict.communication import CommunicationPrediction, predict_communication
from mimo_bench.predict.items import items_by_step
from mimo_bench.predict.memory import MemoryPredictor, RankPrediction, predict_memory

__all__ = [
    "CommunicationPrediction",
    "MemoryPredictor",
    "RankPrediction",
    "items_by_step",
    "predict_communication",
    "predict_memory",
    "unknown_encoders",
]
