"""Calls between tensor-parallel ranks, micro-batch by micro-batch, by the layers of megatron-core that make them.

| | forward | backward |
|---|---|---|
| `ColumnParallelLinear` (queries, keys and values; first of an MLP; output) | | all-reduce of the input's gradient |
| `RowParallelLinear` (attention's projection; second of an MLP) | all-reduce of the output | |
| `VocabParallelEmbedding` | all-reduce of embedded texts | |
| `vocab_parallel_cross_entropy` | three all-reduces of a number for each position, fp32 | |
| instead, with `fused_loss` | all-reduce of one such number, and of two at once | |

With sequence parallelism, where every rank holds 1/t of the positions between those layers:

| | forward | backward |
|---|---|---|
| `ColumnParallelLinear` | all-gather of the input | all-gather of it again, for weights; reduce-scatter |
| `RowParallelLinear` | reduce-scatter of the output | all-gather |
| `scatter_to_sequence_parallel_region`, behind the embedding | | all-gather |

A layer that is recomputed makes its forward calls twice. Encoders are never split along the sequence.
"""

from __future__ import annotations

from collections.abc import Iterator

from mimo_bench.layout import LANGUAGE
from mimo_bench.models import known_encoder
from mimo_bench.predict.step import FP32_BYTES, Calls, Step

_PAIRS_PER_LAYER = 2
"""Attention and MLP: each is a column-parallel layer and then a row-parallel one."""
_LOSS_CALLS = (1, 1, 1)
"""Numbers of each position in each: the largest logit, the right word's logit, the sum of exponentials."""
_FUSED_LOSS_CALLS = (1, 2)


def language_calls(step: Step) -> Iterator[Calls]:
    """Yield the calls of the language model's layers, embedding and loss."""
    grid, shape = step.layout.language, step.shape.language
    if grid.tp == 1:
        return
    num_ranks = grid.tp * step.num_language_passes
    rows = step.num_language_rows
    wide, part = rows * step.row_bytes, rows * step.row_bytes // grid.tp
    # An expert is whole on its rank, which brings it positions of its own: nothing is split there.
    pairs_per_layer = _PAIRS_PER_LAYER if shape.experts is None else _PAIRS_PER_LAYER - 1
    pairs, forward = pairs_per_layer * shape.num_layers, step.forward_passes(LANGUAGE)

    def calls(collective: str, times: int, num_bytes: int) -> Calls:
        return Calls(
            role=f"{LANGUAGE}.tp",
            collective=collective,
            num_calls=num_ranks * times,
            num_bytes=num_ranks * times * num_bytes,
        )

    if step.settings.sequence_parallel:
        # The output layer is column-parallel, too, and never recomputed.
        yield calls("all_gather", forward * pairs + 1, part)
        yield calls("reduce_scatter", forward * pairs, wide)
        yield calls("all_gather", pairs, part)
        yield calls("reduce_scatter", pairs + 1, wide)
        if not step.training.is_frozen(LANGUAGE):
            yield calls("all_gather", pairs + 1, part)
        yield calls("all_gather", 1, part)
    else:
        yield calls("all_reduce", forward * pairs, wide)
        yield calls("all_reduce", pairs + 1, wide)
    for num_numbers in _FUSED_LOSS_CALLS if step.settings.fused_loss else _LOSS_CALLS:
        yield calls("all_reduce", 1, num_numbers * rows * FP32_BYTES)
    yield _embedding_calls(step)


def _embedding_calls(step: Step) -> Calls:
    """Only texts are embedded: positions that items fill are taken out before (`MimoModel.get_text_embeddings`)."""
    tp = step.layout.language.tp
    filled = sum(step.rows(module, sum(items)) for module in step.layout.encoders for items in step.replicas(module))
    num_texts = step.num_language_passes * step.num_language_rows - filled
    return Calls(
        role=f"{LANGUAGE}.tp",
        collective="all_reduce",
        num_calls=tp * step.num_language_passes,
        num_bytes=tp * num_texts * step.row_bytes,
    )


def encoder_calls(step: Step, module: str) -> Iterator[Calls]:
    """Yield the calls of an encoder's layers and its projector."""
    grid = step.layout.modules[module]
    if grid.tp == 1:
        return
    shape = known_encoder(step.shape, module)
    pairs = _PAIRS_PER_LAYER * shape.num_layers
    forward = step.forward_passes(module) * pairs
    backward = pairs if step.trains_layers(module) else 0
    # A projector that is frozen passes gradients on; one behind a frozen encoder computes and reduces them in vain.
    backward_projector = 0 if step.training.is_frozen(module) else 1
    num_calls = num_bytes = 0
    for items in step.replicas(module):
        # A replica without any item runs a blank one, so that its peers do not wait.
        num_items = max(1, sum(items))
        layer = num_items * shape.num_positions * shape.hidden_size
        projected = step.rows(module, num_items)
        num_calls += forward + backward + 1 + backward_projector
        num_bytes += (forward + backward) * layer * step.element_bytes
        num_bytes += projected * step.row_bytes
        num_bytes += backward_projector * projected * shape.output_size * step.element_bytes
    yield Calls(
        role=f"{module}.tp", collective="all_reduce", num_calls=grid.tp * num_calls, num_bytes=grid.tp * num_bytes
    )
