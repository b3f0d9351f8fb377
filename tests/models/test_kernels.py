"""Every kernel compiles for the GPUs that we train on; no GPU is needed for that. Integers are computed to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import triton
from triton.backends.compiler import GPUTarget

from mimo_bench.launch import Launcher
from mimo_bench.models.kernels import rng_triton as counter_kernels
from mimo_bench.models.kernels import triton as kernels
from tests.support.ranks import on_ranks

HOPPER = GPUTarget("cuda", 90, 32)
BF16, INTEGER, CONSTANT = "*bf16", "i32", "constexpr"
ROTATE = {"per_group": 4, "half": 40, "half_block": 64, "heads": 16}

KERNELS = {
    **{
        f"sum of hashes, {values}": (
            counter_kernels._sum_hashes,
            {"values": f"*{values}", "sums": "*i64", "size": INTEGER},
            {"block": 4096},
        )
        for values in ("fp32", "bf16", "i64")
    },
    "draw": (
        counter_kernels._draw,
        {"positions": "*i64", "drawn": "*fp32", "start": "i64", "size": INTEGER},
        {"block": 4096},
    ),
    "swiglu": (kernels._swiglu, {"gate_up": BF16, "gated": BF16, "size": INTEGER}, {"block": 1024}),
    "swiglu backward": (
        kernels._swiglu_backward,
        {"gate_up": BF16, "gradient": BF16, "of_gate_up": BF16, "size": INTEGER},
        {"block": 1024},
    ),
    **{
        f"rotate {way}": (
            kernels._rotate,
            dict.fromkeys(("mixed_qkv", "query", "key", "value", "cosines", "sines"), BF16)
            | {"num_samples": INTEGER, "num_groups": INTEGER},
            ROTATE | {"is_backward": way == "backward"},
        )
        for way in ("forward", "backward")
    },
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles_for_hopper(name: str) -> None:
    kernel, arguments, constants = KERNELS[name]
    signature = arguments | dict.fromkeys(constants, CONSTANT)
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants)
    assert triton.compile(source, target=HOPPER).asm["cubin"]


@on_ranks(1, environment={"TRITON_INTERPRET": "1"})
def hash_and_draw_by_kernels() -> None:
    import hashlib

    import torch

    from mimo_bench.models.kernels.rng import digest, uniform

    counter_kernels._BLOCK = 64
    drawn = torch.randn(3, 77, generator=torch.Generator().manual_seed(1))
    for values in (drawn, drawn.bfloat16(), drawn[:, :1].contiguous(), (drawn * 2.0**60).long(), torch.empty(0)):
        assert f"{int(counter_kernels.sum_of_hashes(values)) % 2**64:016x}" == digest(values), values.dtype
    positions = torch.tensor([[0, 1, 2**40], [77, 2**62, 5]])
    for key in "abcd":  # of which some start below zero
        signed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)
        assert torch.equal(counter_kernels.draw(positions, signed), uniform(key, positions))
        assert torch.equal(counter_kernels.draw(positions[:, :1].contiguous(), signed), uniform(key, positions[:, :1]))
    assert counter_kernels.draw(positions[:0], 1).shape == (0, 3)


def test_kernels_of_hashes_and_draws_give_the_same_bits_as_the_host(launcher: Launcher, tmp_path: Path) -> None:
    hash_and_draw_by_kernels(launcher, tmp_path)
