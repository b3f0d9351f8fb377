"""Calls between ranks that hold different experts, layer by layer, by the dispatcher of megatron-core that makes them.

| `MoEAlltoAllTokenDispatcher` | forward | backward |
|---|---|---|
| how many positions go to each expert, int64 | all-gather | |
| positions to their experts | all-to-all | all-to-all |
| the experts' weights of them, fp32 | all-to-all | all-to-all |
| what the experts made of them, back | all-to-all | all-to-all |

Routing decides what each rank sends, and not what all of them send: every position goes to as many experts.
"""

from __future__ import annotations

from collections.abc import Iterator

from mimo_bench.layout import LANGUAGE
from mimo_bench.predict.step import FP32_BYTES, INT64_BYTES, Calls, Step


def expert_calls(step: Step) -> Iterator[Calls]:
    """Yield the calls of the language model's layers; a layer that is recomputed makes its forward calls twice."""
    grid, shape = step.layout.language, step.shape.language
    if shape.experts is None or grid.ep == 1:
        return
    forward, backward = step.forward_passes(LANGUAGE), 1
    # Every rank of a stage makes them, with the positions that sequence parallelism leaves it.
    num_ranks = grid.tp * step.num_language_passes * shape.num_layers
    num_sent = step.num_language_passes * step.num_language_rows * shape.num_layers * shape.experts.num_used
    yield Calls(
        role=f"{LANGUAGE}.ep",
        collective="all_gather",
        num_calls=num_ranks * forward,
        num_bytes=num_ranks * forward * shape.experts.num_experts * INT64_BYTES,
    )
    yield Calls(
        role=f"{LANGUAGE}.ep",
        collective="all_to_all",
        num_calls=num_ranks * 3 * (forward + backward),
        num_bytes=num_sent * (forward + backward) * (2 * step.row_bytes + FP32_BYTES),
    )
