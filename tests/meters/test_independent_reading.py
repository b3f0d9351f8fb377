"""Our reading of a trace against that of `traceinsight` (Holistic Trace Analysis), which shares no code with it.

It sorts kernels by name, and finds whose a communication kernel was by what PyTorch wrote into it, where we look up
the launch on the host and the range of ours that it lies in.
"""

from __future__ import annotations

import json
import random
import warnings
from collections import defaultdict
from pathlib import Path

import pytest
from hta.configs.parser_config import ParserConfig
from hta.trace_analysis import TraceAnalysis

from mimo_bench.meters.communication.json_stream import read_array
from mimo_bench.meters.communication.kineto import MARK, RANGE, TURN
from tests.meters.test_kineto import event
from tests.support import traces
from tests.support.traces import Reading

TOLERANCE = 0.01
NANO_OF_MICRO = 1e-3
STREAMS = {"compute": 7, "language.tp": 20, "bridge.vision->language": 24}


def generated(path: Path, *, seed: int) -> Path:
    """One step on three streams that overlap by chance: 400 launches, each of which runs when its stream is free."""
    draw = random.Random(seed)
    at, number = 1e6, 0
    free = dict.fromkeys(STREAMS, at)
    events = [event("user_annotation", MARK, at, at + 1), event("user_annotation", f"{TURN}language", at + 1, at + 2)]
    for correlation in range(1, 401):
        told = {}
        at += draw.uniform(20, 200)
        stream = draw.choices([*STREAMS], weights=(6, 3, 1))[0]
        begin = max(free[stream], at + 50.0) + draw.uniform(0, 300)
        free[stream] = end = begin + draw.uniform(150, 1500)
        if stream == "compute":
            is_copy = draw.random() < 0.1
            category, name = ("gpu_memcpy", "Memcpy DtoD (Device -> Device)") if is_copy else ("kernel", "sm90_gemm")
        else:
            category, name = "kernel", "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
            collective = traces.COALESCED if stream.startswith("bridge") else "all_reduce"
            events.append(event("user_annotation", f"{RANGE}{number} {stream} {collective}", at - 5, at + 15))
            told = {} if collective == traces.COALESCED else {"Process Group Description": stream}
            number += 1
        events.append(event("cuda_runtime", "cudaLaunchKernel", at, at + 4, correlation=correlation))
        on_device = event(category, name, begin, end, correlation=correlation, stream=STREAMS[stream], device=0, **told)
        events.append({**on_device, "pid": 0, "tid": STREAMS[stream]})
    events.append(event("user_annotation", MARK, at + 30, at + 31))
    traces.write(path, events)
    return path


def in_nanoseconds(source: Path, target: Path) -> Path:
    """The same trace with a thousandfold of all times, as `traceinsight` cuts each kernel down to whole units."""
    events = [event for event in read_array(source, "traceEvents") if "dur" in event]
    first = min(event["ts"] for event in events)
    traces.write(
        target,
        [
            {**event, "ts": (event["ts"] - first) / NANO_OF_MICRO, "dur": event["dur"] / NANO_OF_MICRO}
            for event in events
        ],
    )
    return target


def theirs(path: Path) -> Reading:
    """As `traceinsight` reads it; copies count as computation, as they do with us."""
    with warnings.catch_warnings():
        # Pandas' about how the package calls it.
        warnings.simplefilter("ignore")
        config = ParserConfig.get_default_cfg()
        config.add_args([ParserConfig.get_all_available_args()["nccl::process_group_desc"]])
        ParserConfig.set_default_cfg(config)
        analysis = TraceAnalysis(trace_files={0: str(path)})
        kinds, _ = analysis.get_gpu_kernel_breakdown(visualize=False, include_memory_kernels=True)
        kernels = analysis.t.get_trace(0)
    seconds = {kind: float(nano) * 1e-9 for kind, nano in zip(kinds["kernel_type"], kinds["sum"], strict=True)}
    communication = sum(value for kind, value in seconds.items() if "COMMUNICATION" in kind)
    exposed = seconds["COMMUNICATION"]
    kernels = kernels[kernels["name"].map(analysis.t.symbol_table.get_sym_table().__getitem__).str.startswith("nccl")]
    # PyTorch describes no kernel of a batched send and receive.
    role = kernels["process_group_desc"].replace("", traces.COALESCED)
    by_role = kernels["dur"].groupby(role).sum() * 1e-9
    totals = (sum(seconds.values()) - exposed, communication, exposed, communication - exposed)
    return {**dict(zip(traces.TOTALS, totals, strict=True)), **by_role.to_dict()}


def without_roles_of_coalesced(reading: Reading) -> Reading:
    """The same with batched calls of all roles as one."""
    found: dict[str, float] = defaultdict(float)
    for key, seconds in reading.items():
        found[traces.COALESCED if key.endswith(traces.COALESCED) else key] += seconds
    return found


COMMITTED = sorted(traces.FIXTURES.glob("*/rank*.trace.json.gz"))
"""What GPU sessions left: see `tests/support/traces.py`."""


@pytest.mark.parametrize("source", [0, 1, *COMMITTED], ids=str)
def test_another_reader_finds_the_same_times_in_a_trace(tmp_path: Path, source: int | Path) -> None:
    path = generated(tmp_path / "rank0.trace.json.gz", seed=source) if isinstance(source, int) else source
    found = without_roles_of_coalesced(traces.read(path))
    assert len(found) > len(traces.TOTALS) + 1
    assert found == pytest.approx(theirs(in_nanoseconds(path, tmp_path / "nanoseconds.json.gz")), rel=TOLERANCE)


def test_a_shortened_trace_says_the_same_and_nothing_of_the_host(tmp_path: Path) -> None:
    long, short = generated(tmp_path / "long.json.gz", seed=2), tmp_path / "short" / "rank0.json.gz"
    events = [*read_array(long, "traceEvents")]
    host = event("python_function", "/home/somebody/train.py(12): step", 1e6, 1.5e6, **{"Python id": 7})
    second = event("user_annotation", MARK, 2e6, 2e6 + 1)
    later = [
        event("cuda_runtime", "cudaLaunchKernel", 1.9e6, 1.9e6 + 4, correlation=999),
        event("kernel", "sm90_gemm", 1.95e6, 1.96e6, correlation=999, stream=7, device=0),
    ]
    traces.write(long, [*events, host, *later, second])
    traces.shorten(long, short)
    kept = [*read_array(short, "traceEvents")]
    assert len(kept) == len(events)
    assert "somebody" not in json.dumps(kept)
    # The kernel of the next step is gone.
    assert traces.read(short) == pytest.approx(traces.read(generated(tmp_path / "one.json.gz", seed=2)))
