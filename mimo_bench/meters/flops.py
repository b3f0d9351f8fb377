"""Model FLOPs: what the model's arithmetic needs, whatever layout or kernel carries it out. Integers only.

scenario -> layout -> trainer -> [meters] -> record -> parity -> report

A matrix product of [m, k] and [k, n] is 2 * m * k * n operations. Backward costs twice the forward: once for the
gradient of the input, once for the weight's. Recomputation is not counted, nor norms, activations or softmax.
"""

from __future__ import annotations

from collections.abc import Mapping

from mimo_bench.layout import LANGUAGE
from mimo_bench.model import AudioShape, EncoderShape, LanguageShape, ModelShape, VisionShape

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
    encoders = {
        name: num_items[name] * _per_item(encoder, shape.language.hidden_size)
        for name, encoder in shape.encoders.items()
    }
    return {**encoders, LANGUAGE: _language(shape.language, num_tokens, num_token_pairs)}


def mfu(*, flops_per_second: float, num_devices: int, device: str, precision: str) -> float | None:
    """Model FLOPs utilisation: model FLOPs per second over what all allocated devices could do; None if unknown."""
    peak = DENSE_BF16_PEAK_FLOPS.get(device)
    return None if peak is None or precision != "bf16" else flops_per_second / (num_devices * peak)


def _per_item(shape: EncoderShape, width: int) -> float:
    """One image or clip through its encoder and the projector."""
    match shape:
        case VisionShape():
            encoder = _image(shape)
        case AudioShape():
            encoder = _clip(shape)
        case _:
            raise AssertionError(f"no operations are known of {shape}")
    projector = shape.num_tokens * 2 * (shape.output_size * width + width * width)
    return float(encoder + 3 * projector)


def _image(shape: VisionShape) -> int:
    """A vision transformer; pixels need no gradient."""
    patches = shape.num_patches * 2 * 3 * shape.patch_size**2 * shape.hidden_size
    return 2 * patches + 3 * _layers(shape, shape.num_positions)


def _clip(shape: AudioShape) -> int:
    """Whisper's encoder: convolutions over three frames, the second of stride 2; frames need no gradient."""
    h = shape.hidden_size
    first = shape.num_frames * 2 * 3 * shape.num_mels * h
    second = shape.num_positions * 2 * 3 * h * h
    return 2 * first + 3 * (second + _layers(shape, shape.num_positions))


def _layers(shape: VisionShape | AudioShape, positions: int) -> int:
    """Forward through the layers, with full attention over the positions."""
    h = shape.hidden_size
    projections = positions * 2 * (4 * h * h + 2 * h * shape.ffn_hidden_size)
    attention = 2 * 2 * positions**2 * h
    return shape.num_layers * (projections + attention)


def _language(shape: LanguageShape, num_tokens: int, num_token_pairs: int) -> float:
    """A decoder with gated MLP; causal attention needs half of the pairs."""
    h = shape.hidden_size
    heads_width, groups_width = (n * shape.head_size for n in (shape.num_attention_heads, shape.num_query_groups))
    per_token = 2 * (2 * h * heads_width + 2 * h * groups_width + 3 * h * shape.ffn_hidden_size)
    attention = 2 * 2 * num_token_pairs * heads_width / 2
    head = num_tokens * 2 * h * shape.vocab_size
    return float(3 * (shape.num_layers * (num_tokens * per_token + attention) + head))
