"""Model FLOPs: what the model's arithmetic needs, whatever layout or kernel carries it out. Integers only.

A matrix product of [m, k] and [k, n] is 2 * m * k * n operations. Backward costs as much again for the gradient of the
input, where something before it is trained, and as much again for the weight's, where that is trained; attention, whose
factors are both inputs, twice the forward. Recomputation is not counted, nor norms, activations or softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from mimo_bench.layout import LANGUAGE
from mimo_bench.models.base import EncoderProvider, EncoderShape
from mimo_bench.models.shape import ModelShape
from mimo_bench.models.table import passes

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
    language = shape.language.flops(num_tokens=num_tokens, num_token_pairs=num_token_pairs, is_trained=trains(LANGUAGE))
    encoders = {
        name: num_items[name] * _per_item(name, encoder, shape.language.hidden_size, trains)
        for name, encoder in shape.encoders.items()
    }
    return {**encoders, LANGUAGE: language}


def mfu(*, flops_per_second: float, num_devices: int, device: str, precision: str) -> float | None:
    """Model FLOPs utilisation: model FLOPs per second over what all allocated devices could do; None if unknown."""
    peak = DENSE_BF16_PEAK_FLOPS.get(device)
    return None if peak is None or precision != "bf16" else flops_per_second / (num_devices * peak)


def _per_item(module: str, shape: EncoderShape, width: int, trains: Callable[[str], bool]) -> float:
    """Return the operations of one item through its encoder and the projector."""
    encoder, projector = trains(f"{module}.encoder"), trains(f"{module}.projector")
    # A scenario has checked that an encoder of another package is a provider.
    operations = cast(EncoderProvider, shape).flops_per_item(is_trained=encoder)
    first, second = (shape.num_tokens * 2 * size * width for size in (shape.output_size, width))
    operations += passes(inputs=encoder, weights=projector) * first
    return float(operations + passes(inputs=encoder or projector, weights=projector) * second)
