"""What a profiler's trace shows: whose a kernel was, read in little memory whatever its size."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from mimo_bench.meters.communication.calls import Call, Part
from mimo_bench.meters.communication.json_stream import read_array
from mimo_bench.meters.communication.kineto import MARK, observe
from mimo_bench.meters.communication.tracing import TracedClock
from mimo_bench.util.errors import RecordError


def event(category: str, name: str, begin: float, end: float, **said: Any) -> dict[str, Any]:
    """An event between two times in microseconds."""
    return {
        "ph": "X", "cat": category, "name": name, "pid": 1, "tid": 1, "ts": begin, "dur": end - begin, "args": said,
    }  # fmt: skip


def write(path: Path, events: Iterable[dict[str, Any]]) -> Path:
    """A trace as torch's profiler writes it, with other arrays before the one of events."""
    text = json.dumps({"schemaVersion": 1, "deviceProperties": [{"id": 0}], "traceEvents": list(events), "last": []})
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


# Two steps from 1 to 9 s. The host runs ahead: what it launches from 1 to 2 s runs until 8 s.
TRACE = [
    {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "python"}},
    event("user_annotation", "mimo_bench.mark", 1e6, 1.001e6),
    event("user_annotation", "mimo_bench.mark", 5e6, 5.001e6),
    event("user_annotation", "mimo_bench.mark", 9e6, 9.001e6),
    event("user_annotation", "mimo_bench.turn vision", 1.0e6, 1.01e6),
    event("cuda_runtime", "cudaLaunchKernel", 1.1e6, 1.11e6, correlation=11),
    event("user_annotation", "mimo_bench.turn ", 1.2e6, 1.21e6),
    event("user_annotation", "mimo_bench.call 0 bridge.vision->language coalesced", 1.3e6, 1.4e6),
    event("cuda_driver", "cuLaunchKernelEx", 1.35e6, 1.36e6, correlation=12),
    event("user_annotation", "mimo_bench.turn language", 1.5e6, 1.51e6),
    event("cuda_runtime", "cudaLaunchKernel", 1.6e6, 1.61e6, correlation=13),
    event("user_annotation", "mimo_bench.call 1 language.tp all_reduce", 1.7e6, 1.8e6),
    event("cuda_runtime", "cudaLaunchKernelExC", 1.75e6, 1.76e6, correlation=14),
    event("cpu_op", "aten::mm", 1.6e6, 1.7e6),
    event("gpu_user_annotation", "mimo_bench.mark", 1e6, 8e6),
    event("kernel", "sm90_gemm", 2e6, 3e6, correlation=11),
    event("kernel", "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", 3e6, 5e6, correlation=12),
    event("gpu_memcpy", "Memcpy DtoD", 5e6, 6e6, correlation=13),
    event("kernel", "ncclDevKernel_AllReduce_Sum_f32_RING_LL", 5.5e6, 8e6, correlation=14),
    event("kernel", "ncclDevKernel_Broadcast_RING_LL", 8e6, 8.5e6, correlation=99, **{
        "Collective name": "broadcast", "Process Group Description": "vision.tp"}),
]  # fmt: skip


def asked(role: str, collective: str, *messages: tuple[int, int]) -> Call:
    """A call as it was intercepted: the time of its launch is not that of its kernel."""
    return Call(
        role=role,
        collective=collective,
        ranks=(0, 1),
        parts=(Part(collective=collective, num_bytes=8),),
        spans=((0.0, 0.001),),
        messages=messages,
    )


ASKED = [asked("bridge.vision->language", "coalesced", (0, 1)), asked("language.tp", "all_reduce")]


@pytest.mark.parametrize("name", ["rank0.trace.json", "rank0.trace.json.gz"])
def test_a_kernel_belongs_to_the_call_and_the_module_that_launched_it(tmp_path: Path, name: str) -> None:
    observed = observe(write(tmp_path / name, TRACE), ASKED)
    assert observed.window == (1.0, 9.0)
    assert observed.compute == {"vision": [(2.0, 3.0)], "language": [(5.0, 6.0)]}
    assert [(one.role, one.collective, one.spans) for one in observed.calls] == [
        ("bridge.vision->language", "coalesced", ((3.0, 5.0),)),
        ("language.tp", "all_reduce", ((5.5, 8.0),)),
        # Nobody asked for this one as far as we saw, so the profiler's own words have to do.
        ("vision.tp", "broadcast", ((8.0, 8.5),)),
    ]


def compiled(begin: float, end: float, **said: Any) -> dict[str, Any]:
    """A kernel that compiled code launched: in nobody's range, with the profiler's words about it."""
    return event("kernel", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", begin, end, correlation=99, **{
        "Collective name": "allreduce", "Process Group Description": "language.tp", **said})  # fmt: skip


def test_calls_of_compiled_code_are_known_to_peers_by_their_ranks_and_in_their_order(tmp_path: Path) -> None:
    known = {"Process Group Ranks": "[2, 3]", "Group size": 2}
    trace = [*TRACE[:4], compiled(4e6, 5e6, **known), compiled(2e6, 3e6, **known)]
    observed = observe(write(tmp_path / "trace.json", trace), [])
    assert [(one.role, one.collective, one.ranks, one.spans) for one in observed.calls] == [
        ("language.tp", "all_reduce", (2, 3), ((2.0, 3.0),)),
        ("language.tp", "all_reduce", (2, 3), ((4.0, 5.0),)),
    ]


@pytest.mark.parametrize("said", [{}, {"Process Group Ranks": "[0, 1, ..., 7]", "Group size": 8}])
def test_ranks_that_the_profiler_does_not_list_are_not_made_up(tmp_path: Path, said: dict[str, Any]) -> None:
    (call,) = observe(write(tmp_path / "trace.json", [*TRACE[:4], compiled(2e6, 3e6, **said)]), []).calls
    assert call.ranks == ()


def test_the_window_ends_when_the_device_has_and_not_when_the_host_leaves_the_last_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    @contextmanager
    def marker(name: str) -> Iterator[None]:
        done.append(name)
        yield

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("waited"))
    monkeypatch.setattr(torch.profiler, "record_function", marker)
    TracedClock().close()
    assert done == ["waited", MARK]


def test_the_order_of_events_in_the_file_does_not_matter(tmp_path: Path) -> None:
    forward = observe(write(tmp_path / "a.json", TRACE), ASKED)
    assert observe(write(tmp_path / "b.json", reversed(TRACE)), ASKED) == forward


def test_a_call_without_a_kernel_took_no_time(tmp_path: Path) -> None:
    observed = observe(write(tmp_path / "a.json", TRACE), [*ASKED, asked("vision.dp", "all_reduce")])
    assert observed.calls[2].spans == ()


def test_a_trace_without_the_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"holds 1 of the markers 'mimo_bench\.mark'"):
        observe(write(tmp_path / "a.json", TRACE[3:]), ASKED)


@pytest.mark.parametrize(("keep", "said"), [(30, "no array"), (500, "in the middle of an array")])
def test_a_trace_that_was_cut_short_is_refused(tmp_path: Path, keep: int, said: str) -> None:
    path = write(tmp_path / "a.json", TRACE)
    path.write_text(path.read_text()[:keep])
    with pytest.raises(RecordError, match=said):
        observe(path, ASKED)


def test_a_large_trace_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    filler = ", ".join(json.dumps(event("cpu_op", f"aten::op{k}", k, k + 1, detail="x" * 200)) for k in range(2000))
    with path.open("w") as file:
        # Spaces put the objects at ever other places in the chunks that are read.
        file.write('{"schemaVersion": 1, "traceEvents" : [')
        for k in range(40):
            file.write(f"{' ' * k}{filler},\n")
        file.write('{"last": true}], "more": [1]}')
    size = path.stat().st_size
    assert size > 20e6
    tracemalloc.start()
    num_events, last = 0, dict[str, Any]()
    for found in read_array(path, "traceEvents"):
        num_events, last = num_events + 1, found
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (num_events, last) == (80001, {"last": True})
    assert peak < size / 3
