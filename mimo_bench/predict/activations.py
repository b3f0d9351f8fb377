"""Activations that forward passes keep for backward passes, and the memory of a micro-batch's busiest moment. Formulas.

In elements for each position of a layer, with hidden size h, MLP width f, TP t:

    decoder, gated MLP   4h/s + (3q + 3g + 5f)/t
    encoder, plain MLP   4h + (4h + 2f)/t

4h: the layer's input, the outputs of its two norms, the residual between. Then queries, keys and values, before and,
in a decoder, after rotation; what attention gives; the MLP's products, five where it is gated. q is the width of all
heads, g of all key-value groups, s is t under sequence parallelism and else 1. Compiled decoder layers, and fused
activations, recompute the cheap products: 3f instead of 5f. Attention kernels keep their output and one number for
each head and position. The plain one keeps every score in fp32, and its backward pass makes two more of each; PyTorch
falls back to it where queries are grouped in fp32. With recomputation a layer leaves only its input, and one layer's
worth comes back in the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from mimo_bench.layout import LANGUAGE, Grid, Precision, Settings
from mimo_bench.models import KnownEncoder, LanguageShape, ModelShape, known_encoder, vocab_per_rank
from mimo_bench.predict.state import ELEMENT_BYTES
from mimo_bench.scenario import Training

_FP32 = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationBytes:
    """Activation memory of one module on one rank."""

    kept: int
    """Of each micro-batch, from its forward pass to its backward pass."""
    loss: int
    """Further, in the moment of the loss; on last language stages only."""
    layer: int
    """Further, while one layer runs backward."""
    left_by_loss: int = 0
    """Of what is kept, what the loss left: it is gone before any layer runs backward."""

    @property
    def busiest(self) -> int:
        """Beyond what is kept, at the most: in the moment of the loss, or while a layer runs backward."""
        return max(self.loss, self.layer - self.left_by_loss)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """A transformer layer's elements for each of its positions, and its attention."""

    kept: float
    entered: float
    """What enters it: all that is left under recomputation."""
    widest: float
    """Elements of the gradients that live at once in its backward pass."""
    heads: int
    has_groups: bool
    """Whether several of its queries share a key."""


def activation_bytes(
    shape: ModelShape,
    module: str,
    grid: Grid,
    *,
    stage: int,
    num_items: int,
    seq_length: int,
    settings: Settings,
    precision: Precision,
    training: Training,
) -> ActivationBytes | None:
    """Return the activations of a module's micro-batch on one rank; None with experts, as routing decides them.

    Args:
        shape: the model.
        module: its name in the layout.
        grid: its degrees.
        stage: of the rank.
        num_items: samples of the micro-batch on this replica, or their images.
        seq_length: of the language model.
        settings: of the layout.
        precision: of activations.
        training: what of it is frozen.
    """
    element = ELEMENT_BYTES[precision]
    if module == LANGUAGE:
        if shape.language.experts is not None:
            return None
        layer = _decoder_layer(shape.language, grid.tp, settings, is_frozen=training.is_frozen(LANGUAGE))
        stack = _stack(layer, shape.language.num_layers // grid.pp, num_items, seq_length, element, settings, precision)
        return _with_ends(stack, shape.language, grid, stage, num_items * seq_length, element, settings)
    encoder = known_encoder(shape, module)
    if training.is_frozen(module):
        # Nothing runs backward.
        return ActivationBytes(kept=0, loss=0, layer=0)
    is_trained, is_last = training.trains(f"{module}.encoder"), stage == grid.pp - 1
    stack = _stack(
        _encoder_layer(encoder, grid.tp),
        encoder.num_layers // grid.pp if is_trained else 0,
        num_items,
        encoder.num_positions,
        element,
        settings,
        precision,
    )
    positions = num_items * encoder.num_positions * encoder.hidden_size
    ends = encoder.kept_before_layers * positions if stage == 0 and is_trained else positions
    ends += _projector_products(encoder, shape.language.hidden_size, grid.tp, num_items) if is_last else positions
    ends *= element
    return ActivationBytes(kept=stack.kept + ends, loss=0, layer=stack.layer)


def _decoder_layer(shape: LanguageShape, tp: int, settings: Settings, *, is_frozen: bool) -> _Layer:
    h, ffn = shape.hidden_size, shape.ffn_hidden_size / tp
    q, g = (n * shape.head_size / tp for n in (shape.num_attention_heads, shape.num_query_groups))
    split = tp if settings.sequence_parallel else 1
    products = 3 if settings.compile_layers or settings.fused_activation else 5
    # Before rotation and after it; values once, as a part of what is not rotated. In one kernel only what it gives.
    copies = 2 if settings.fused_rope else 3
    inputs = 4
    if is_frozen:
        # A matrix product whose weights need no gradient keeps no input: norms' outputs, and the last of the MLP.
        products, inputs = products - 1, 2
    return _Layer(
        kept=inputs * h / split + copies * (q + g) + products * ffn,
        entered=h / split,
        widest=5 * ffn,
        heads=shape.num_attention_heads // tp,
        has_groups=shape.num_query_groups != shape.num_attention_heads,
    )


def _encoder_layer(shape: KnownEncoder, tp: int) -> _Layer:
    h, ffn = shape.hidden_size, shape.ffn_hidden_size / tp
    return _Layer(
        kept=4 * h + 4 * h / tp + 2 * ffn,
        entered=h,
        widest=2 * ffn,
        heads=shape.num_attention_heads // tp,
        has_groups=False,
    )


def _stack(
    layer: _Layer,
    num_layers: int,
    samples: int,
    positions: int,
    element: int,
    settings: Settings,
    precision: Precision,
) -> ActivationBytes:
    """A stage's layers."""
    rows = samples * positions
    statistics = samples * layer.heads * positions * _FP32
    # Fused kernels take bf16, and one of them fp32 without groups.
    is_plain = settings.attention == "math" or (precision == "fp32" and layer.has_groups)
    scores = statistics * positions if is_plain else 0
    whole = round(rows * layer.kept * element) + (scores or statistics)
    backward = round(rows * layer.widest * element) + 2 * scores
    if settings.recompute_activations:
        kept = round(rows * layer.entered * element)
        return ActivationBytes(kept=num_layers * kept, loss=0, layer=whole + backward)
    return ActivationBytes(kept=num_layers * whole, loss=0, layer=backward)


def _with_ends(
    stack: ActivationBytes,
    shape: LanguageShape,
    grid: Grid,
    stage: int,
    rows: int,
    element: int,
    settings: Settings,
) -> ActivationBytes:
    """A language stage with what stands before its layers and behind them."""
    h, is_last = shape.hidden_size, stage == grid.pp - 1
    # What came from the stage before, or the embedding with the images put in.
    kept = stack.kept + rows * h * element
    if not is_last:
        # What went to the next stage.
        return ActivationBytes(kept=kept + rows * h * element, loss=0, layer=stack.layer)
    logits = rows * vocab_per_rank(shape, grid.tp) * element
    # The final norm's output.
    kept += rows * h * element
    if settings.fused_loss:
        # The logits and their gradient.
        return ActivationBytes(kept=kept + logits, loss=logits, layer=stack.layer, left_by_loss=logits)
    # Probabilities in fp32, and the logits that they are made of; in fp32 both are one.
    probabilities = logits * _FP32 // element
    return ActivationBytes(
        kept=kept + probabilities,
        loss=logits if element < _FP32 else 0,
        layer=stack.layer,
        left_by_loss=probabilities,
    )


def _projector_products(shape: KnownEncoder, width: int, tp: int, samples: int) -> int:
    """Elements of its input, its two products and its output."""
    return samples * shape.num_tokens * (shape.output_size + 2 * width // tp + width)
