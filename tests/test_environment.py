"""What is kept of the environment: what may change a measurement, and no secret."""

from __future__ import annotations

from mimo_bench.meters.environment import relevant_variables


def test_variables_that_change_measurements_are_kept_and_secrets_are_not() -> None:
    found = relevant_variables(
        {
            "NCCL_ALGO": "Ring",
            "CUDA_VISIBLE_DEVICES": "0",
            "HOME": "/home/somebody",
            "AWS_SECRET_ACCESS_KEY": "x",
            "NCCL_AUTH_TOKEN": "x",
            "TORCH_HUB_PASSWORD": "x",
            "MIMO_BENCH_API_KEY": "x",
        }
    )
    assert found == {"CUDA_VISIBLE_DEVICES": "0", "NCCL_ALGO": "Ring"}
