"""What is kept of the environment: what may change a measurement, how devices are connected, and no secret."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from mimo_bench.meters.environment import (
    MEASURING,
    PACKAGE,
    hash_of_measuring_code,
    hash_of_statements,
    read_environment,
    relevant_variables,
)
from mimo_bench.record import MEASURING_VERSION

HARMLESS = {"CUDA_VISIBLE_DEVICES": "0", "NCCL_ALGO": "Ring", "OMP_NUM_THREADS": "1"}
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "hidden-1",
    "NCCL_AUTH_TOKEN": "hidden-2",
    "TORCH_HUB_PASSWORD": "hidden-3",
    "MIMO_BENCH_API_KEY": "hidden-4",
    "MIMO_BENCH_api_key": "hidden-5",
    "NCCL_PASSPHRASE": "hidden-6",
    "TORCH_MIRROR": "https://somebody:hidden-7@example.org/wheels",
}


def test_variables_that_change_measurements_are_kept_and_secrets_are_not() -> None:
    assert relevant_variables({"HOME": "/home/somebody", **SECRETS, **HARMLESS}) == HARMLESS


def test_an_environment_holds_what_was_set_and_leaks_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SECRETS | HARMLESS).items():
        monkeypatch.setenv(name, value)
    found = read_environment("cpu")
    assert HARMLESS.items() <= found.variables.items()
    assert "hidden" not in found.model_dump_json()
    assert found.torch
    assert found.megatron_core
    assert found.hosts


def test_every_pair_of_gpus_is_told_by_how_it_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {("a", "b"): pynvml.NVML_P2P_STATUS_OK}
    ancestors: dict[tuple[str, str], int] = {("a", "c"): pynvml.NVML_TOPOLOGY_NODE}

    def ancestor(one: str, other: str) -> int:
        if (one, other) not in ancestors:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return ancestors[one, other]

    driver = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 3,
        "nvmlDeviceGetHandleByIndex": lambda index: "abc"[index],
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid[-1],
        "nvmlDeviceGetName": lambda _: "NVIDIA H200",
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=1 << 30),
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlSystemGetCudaDriverVersion": lambda: 13000,
        "nvmlDeviceGetP2PStatus": lambda one, other, _: links.get((one, other), pynvml.NVML_P2P_STATUS_NOT_SUPPORTED),
        "nvmlDeviceGetTopologyCommonAncestor": ancestor,
    }
    for name, answer in driver.items():
        monkeypatch.setattr(pynvml, name, answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = read_environment("cuda")
    # What the driver does not tell of the third pair is left out.
    assert found.topology == {"0-1": "NVLink", "0-2": "one NUMA node"}
    assert [(device.name, device.uuid) for device in found.devices] == [
        ("NVIDIA H200", f"GPU-{letter}") for letter in "abc"
    ]
    assert (found.driver, found.cuda) == ("580.1", "13.0")


def test_rewording_and_moving_measuring_code_keeps_its_hash_and_changing_it_does_not() -> None:
    before = ['"""Old words."""\nimport os\n\ndef f(x):\n    """Says so."""\n    return x + 1  # why\n', "Y = 2\n"]
    after = ['Y = 2\n\ndef f(x):\n    "New words."\n    return x + 1\n', "from a import b\n"]
    assert hash_of_statements(before) == hash_of_statements(after)
    assert hash_of_statements(before) != hash_of_statements([before[0].replace("x + 1", "x + 2"), before[1]])


MEASURED_BY = (1, "a7bcbffa7f55844ac30149d5299f3b2bb062098e7ae11de04184c5c83b8e7245")
"""The measuring version, and the hash of the code that has it."""


def test_a_change_of_measuring_code_says_whether_recorded_numbers_still_mean_the_same() -> None:
    assert (MEASURING_VERSION, hash_of_measuring_code()) == MEASURED_BY, (
        "measuring code changed: raise MEASURING_VERSION in record/schema/run.py if a recorded number means something "
        "else now, which ends every history; then write version and hash here"
    )


def test_formulas_of_flops_are_measuring_code() -> None:
    files = {path for place in MEASURING for path in PACKAGE.glob(place)}
    assert {path.parent.name for path in files if path.name == "shape.py"} >= {"vit", "whisper", "llama"}
    assert all(any(PACKAGE.glob(place)) for place in MEASURING)
