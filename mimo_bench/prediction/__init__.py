"""What a layout will need, from integers alone: parameters, memory and bytes on the wire. No torch, no processes.

scenario -> layout -> [prediction] -> trainer -> meters -> record: `check` prints it, the record holds it beside what
was measured, and the tests hold it against the trainer.

    parameters -> state -+
    activations ---------+-> memory
"""

from mimo_bench.prediction.memory import RankPrediction, predict_memory

__all__ = ["RankPrediction", "predict_memory"]
