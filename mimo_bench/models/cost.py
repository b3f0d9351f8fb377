"""Model FLOPs: what the model's arithmetic needs, whatever layout or kernel carries it out. Integers only.

A matrix product of [m, k] and [k, n] is 2 * m * k * n operations. Backward costs as much again for the gradient of the
input, where something before it is trained, and as much again for the weight's, where that is trained; attention, whose
factors are both inputs, twice the forward. Recomputation is not counted, nor norms, activations or softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from mimo_bench.layout import LANGUAGE
from mimo_bench.models import AudioShape, EncoderShape, LanguageShape, ModelShape, VisionShape
from mimo_bench.models.provider import EncoderProvider

DENSE_BF16_PEAK_FLOPS = {
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835.5e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA GH200 480GB": 989.4e12,
    "NVIDIA H200 NVL": 835.5e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA B200": 2250e12,
}
"""Operations per second of the tensor cores without sparsity, by the driver's exact device name; from the vendor's data
sheets. A device that is not listed has no MFU."""


def model_flops(
    shape: ModelShape,
    *,
    num_items: Mapping[str, int],
    num_tokens: int,
    num_token_pairs: int,
    trains: Callable[[str], bool] = lambda _: True,
) -> dict[str, float]:
    """Forward and backward operations of one optimizer step, by module; the projector counts as the encoder's.

    Args:
        shape: the model.
        num_items: what each encoder reads in the step, such as images.
        num_tokens: language positions of the step that are not padding.
        num_token_pairs: sum over samples of the squared number of those positions.
        trains: whether the module, or part of one, of a canonical name is trained.
    """
    encoders = {
        name: num_items[name] * _per_item(name, encoder, shape.language.hidden_size, trains)
        for name, encoder in shape.encoders.items()
    }
    return {**encoders, LANGUAGE: _language(shape.language, num_tokens, num_token_pairs, trains)}


def mfu(*, flops_per_second: float, num_devices: int, device: str, precision: str) -> float | None:
    """Model FLOPs utilisation: model FLOPs per second over what all allocated devices could do; None if unknown."""
    peak = DENSE_BF16_PEAK_FLOPS.get(device)
    return None if peak is None or precision != "bf16" else flops_per_second / (num_devices * peak)


def _per_item(module: str, shape: EncoderShape, width: int, trains: Callable[[str], bool]) -> float:
    """One image or clip through its encoder and the projector."""
    encoder, projector = trains(f"{module}.encoder"), trains(f"{module}.projector")
    match shape:
        case VisionShape():
            operations = _image(shape, is_trained=encoder)
        case AudioShape():
            operations = _clip(shape, is_trained=encoder)
        case _:
            # Of another package: the scenario has checked that it is a provider.
            operations = cast(EncoderProvider, shape).flops_per_item(is_trained=encoder)
    first, second = (shape.num_tokens * 2 * size * width for size in (shape.output_size, width))
    operations += _passes(inputs=encoder, weights=projector) * first
    return float(operations + _passes(inputs=encoder or projector, weights=projector) * second)


def _image(shape: VisionShape, *, is_trained: bool) -> int:
    """A vision transformer; pixels need no gradient."""
    patches = shape.num_patches * 2 * 3 * shape.patch_size**2 * shape.hidden_size
    return _passes(inputs=False, weights=is_trained) * patches + _passes(
        inputs=is_trained, weights=is_trained
    ) * _layers(shape, shape.num_positions)


def _clip(shape: AudioShape, *, is_trained: bool) -> int:
    """Whisper's encoder: convolutions over three frames, the second of stride 2; frames need no gradient."""
    h = shape.hidden_size
    first = shape.num_frames * 2 * 3 * shape.num_mels * h
    second = shape.num_positions * 2 * 3 * h * h
    layers = second + _layers(shape, shape.num_positions)
    return _passes(inputs=False, weights=is_trained) * first + _passes(inputs=is_trained, weights=is_trained) * layers


def _layers(shape: VisionShape | AudioShape, positions: int) -> int:
    """Forward through the layers, with full attention over the positions."""
    h = shape.hidden_size
    projections = positions * 2 * (4 * h * h + 2 * h * shape.ffn_hidden_size)
    attention = 2 * 2 * positions**2 * h
    return shape.num_layers * (projections + attention)


def _language(shape: LanguageShape, num_tokens: int, num_token_pairs: int, trains: Callable[[str], bool]) -> float:
    """A decoder with gated MLPs, of experts those that a token goes through; causal attention needs half of the pairs.

    Its inputs always need their gradient: for the word embeddings, or where the language model is frozen, for whichever
    encoder is trained.
    """
    h = shape.hidden_size
    heads_width, groups_width = (n * shape.head_size for n in (shape.num_attention_heads, shape.num_query_groups))
    num_mlps, routing = (1, 0) if shape.experts is None else (shape.experts.num_used, h * shape.experts.num_experts)
    mlp = num_mlps * 3 * h * shape.ffn_hidden_size + routing
    per_token = 2 * (2 * h * heads_width + 2 * h * groups_width + mlp)
    attention = 2 * 2 * num_token_pairs * heads_width / 2
    head = num_tokens * 2 * h * shape.vocab_size
    products = shape.num_layers * num_tokens * per_token + head
    return float(_passes(inputs=True, weights=trains(LANGUAGE)) * products + 3 * shape.num_layers * attention)


def _passes(*, inputs: bool, weights: bool) -> int:
    """How often a product of a weight is computed: forward, and for each gradient that is needed."""
    return 1 + inputs + weights
