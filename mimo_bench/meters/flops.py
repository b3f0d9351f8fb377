"""Model FLOPs: what the model's arithmetic needs, whatever layout or kernel carries it out. Integers only.

scenario -> layout -> trainer -> [meters] -> record -> parity -> report

A matrix product of [m, k] and [k, n] is 2 * m * k * n operations. Backward costs twice the forward: once for the
gradient of the input, once for the weight's. Recomputation is not counted, nor norms, activations or softmax.
"""

from __future__ import annotations

from collections.abc import Mapping

from mimo_bench.layout import LANGUAGE
from mimo_bench.model import LanguageShape, ModelShape, VisionShape

DENSE_BF16_PEAK_FLOPS = {
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H200": 989.4e12,
}
"""Operations per second of the tensor cores without sparsity, by the driver's exact device name; from the vendor's data
sheets. A device that is not listed has no MFU."""


def model_flops(
    shape: ModelShape, *, num_items: Mapping[str, int], num_tokens: int, num_token_pairs: int
) -> dict[str, float]:
    """Forward and backward operations of one optimizer step, by module; the projector counts as the encoder's.

    Args:
        shape: the model; every module is trained.
        num_items: what each encoder reads in the step, such as images.
        num_tokens: language positions of the step that are not padding.
        num_token_pairs: sum over samples of the squared number of those positions.
    """
    return {
        "vision": num_items["vision"] * _per_image(shape.vision, shape.language.hidden_size),
        LANGUAGE: _language(shape.language, num_tokens, num_token_pairs),
    }


def mfu(*, flops_per_second: float, num_devices: int, device: str, precision: str) -> float | None:
    """Model FLOPs utilisation: model FLOPs per second over what all allocated devices could do; None if unknown."""
    peak = DENSE_BF16_PEAK_FLOPS.get(device)
    return None if peak is None or precision != "bf16" else flops_per_second / (num_devices * peak)


def _per_image(shape: VisionShape, width: int) -> float:
    """A vision transformer with full attention over its positions; pixels need no gradient."""
    positions = shape.num_positions
    h = shape.hidden_size
    projections = positions * 2 * (4 * h * h + 2 * h * shape.ffn_hidden_size)
    attention = 2 * 2 * positions**2 * h
    layers = shape.num_layers * (projections + attention)
    patches = shape.num_patches * 2 * 3 * shape.patch_size**2 * h
    projector = shape.num_image_tokens * 2 * (h * width + width * width)
    return float(3 * (layers + projector) + 2 * patches)


def _language(shape: LanguageShape, num_tokens: int, num_token_pairs: int) -> float:
    """A decoder with gated MLP; causal attention needs half of the pairs."""
    h = shape.hidden_size
    heads_width, groups_width = (n * shape.head_size for n in (shape.num_attention_heads, shape.num_query_groups))
    per_token = 2 * (2 * h * heads_width + 2 * h * groups_width + 3 * h * shape.ffn_hidden_size)
    attention = 2 * 2 * num_token_pairs * heads_width / 2
    head = num_tokens * 2 * h * shape.vocab_size
    return float(3 * (shape.num_layers * (num_tokens * per_token + attention) + head))
