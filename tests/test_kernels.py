"""Every kernel compiles for the GPUs that we train on; no GPU is needed for that."""

from __future__ import annotations

import pytest
import triton
from triton.backends.compiler import GPUTarget

from mimo_bench.trainer.models import kernels

HOPPER = GPUTarget("cuda", 90, 32)
BF16, INTEGER, CONSTANT = "*bf16", "i32", "constexpr"
TURN = {"per_group": 4, "half": 40, "half_block": 64, "heads": 16}

KERNELS = {
    "gate": (kernels._gate, {"both": BF16, "gated": BF16, "size": INTEGER}, {"block": 1024}),
    "ungate": (
        kernels._ungate,
        {"both": BF16, "gradient": BF16, "of_both": BF16, "size": INTEGER},
        {"block": 1024},
    ),
    **{
        f"turn {way}": (
            kernels._turn,
            dict.fromkeys(("mixed", "query", "key", "value", "cosines", "sines"), BF16)
            | {"num_samples": INTEGER, "num_groups": INTEGER},
            TURN | {"is_backward": way == "back"},
        )
        for way in ("apart", "back")
    },
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles_for_hopper(name: str) -> None:
    kernel, arguments, constants = KERNELS[name]
    signature = arguments | dict.fromkeys(constants, CONSTANT)
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants)
    assert triton.compile(source, target=HOPPER).asm["cubin"]
