"""Entries of NCCL's flight recorder become totals per group role and collective."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mimo_bench.meters.communication import flight_recorder as recorder
from mimo_bench.meters.communication.account import join, summarise
from mimo_bench.meters.communication.calls import Signature, transfer_seconds
from mimo_bench.meters.communication.flight_recorder import calls_of, entries_behind
from mimo_bench.record import RankCommunication
from mimo_bench.util.errors import RecordError


def entry(
    what: str,
    *,
    role: str = "language.tp",
    sizes: list[list[int]] | None = None,
    dtypes: list[str] | None = None,
    milliseconds: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """An entry as the recorder writes it; without a duration where the recorder has none."""
    timed = {} if milliseconds is None else {"duration_ms": milliseconds}
    return {
        "process_group": ["7", role],
        "profiling_name": f"nccl:{what}",
        "input_sizes": sizes or [],
        "input_dtypes": dtypes or [],
        "state": "completed",
        **timed,
        **more,
    }


def totals(*entries: dict[str, Any], num_steps: int = 1) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Calls, bytes and seconds per step by role and collective."""
    return {
        (found.role, found.collective): (found.calls_per_step, found.bytes_per_step, found.seconds_per_step)
        for found in summarise(calls_of(entries, groups={}), None, num_steps=num_steps)
    }


def test_calls_bytes_and_seconds_are_totals_over_steps() -> None:
    # [3, 4] floats are 48 bytes, [8] are 32; 80 bytes and 0.5 + 1.5 s over 2 steps.
    found = totals(
        entry("all_reduce", sizes=[[3, 4]], dtypes=["Float"], milliseconds=500),
        entry("all_reduce", sizes=[[8]], dtypes=["Float"], milliseconds=1500),
        num_steps=2,
    )
    assert found == {("language.tp", "all_reduce"): (1.0, 40.0, 1.0)}


@pytest.mark.parametrize(
    ("dtype", "size"), [("Float", 4), ("BFloat16", 2), ("Half", 2), ("Double", 8), ("Long", 8), ("Int", 4), ("Byte", 1)]
)
def test_an_element_counts_by_its_type(dtype: str, size: int) -> None:
    found = totals(entry("all_reduce", sizes=[[2, 5]], dtypes=[dtype]))
    assert found["language.tp", "all_reduce"][1] == 10 * size


def test_every_tensor_that_is_put_in_counts_and_a_number_is_one_element() -> None:
    found = totals(entry("all_gather", sizes=[[2], [3], []], dtypes=["BFloat16", "Float", "Double"]))
    assert found["language.tp", "all_gather"][1] == 2 * 2 + 3 * 4 + 8


def test_roles_and_collectives_are_kept_apart_and_sorted() -> None:
    found = totals(
        entry("reduce_scatter", role="vision.dp", sizes=[[1]], dtypes=["Float"]),
        entry("all_gather", role="vision.dp", sizes=[[2]], dtypes=["Float"]),
        entry("all_gather", role="language.dp", sizes=[[3]], dtypes=["Float"]),
    )
    assert list(found.items()) == [
        (("language.dp", "all_gather"), (1.0, 12.0, 0.0)),
        (("vision.dp", "all_gather"), (1.0, 8.0, 0.0)),
        (("vision.dp", "reduce_scatter"), (1.0, 4.0, 0.0)),
    ]


def test_batched_messages_have_their_time_from_the_batch_and_their_size_from_the_message() -> None:
    bridge = "bridge.vision->language"
    found = totals(
        entry("send 0->2", role=bridge, sizes=[[4, 4]], dtypes=["Float"], is_p2p=True),
        entry("send 0->3", role=bridge, sizes=[[2, 4]], dtypes=["Float"], is_p2p=True),
        entry("coalesced", role=bridge, milliseconds=250),
    )
    assert found == {
        (bridge, "coalesced"): (1.0, 0.0, 0.25),
        (bridge, "send"): (2.0, 64.0 + 32.0, 0.0),
    }


def test_what_is_received_stands_on_a_row_of_its_own() -> None:
    found = totals(
        entry("send 1->0", sizes=[[4]], dtypes=["Float"], is_p2p=True),
        entry("recv 1<-0", sizes=[[8]], dtypes=["Float"], is_p2p=True),
    )
    assert found == {("language.tp", "send"): (1.0, 16.0, 0.0), ("language.tp", "recv"): (1.0, 32.0, 0.0)}


@pytest.mark.parametrize("nobody", ["undefined", ""])
def test_a_group_that_nobody_described_goes_by_its_number(nobody: str) -> None:
    assert list(totals(entry("barrier", role=nobody))) == [("group 7", "barrier")]


@pytest.mark.parametrize("unknown", [{}, {"duration_ms": None}])
def test_a_collective_without_a_duration_still_counts(unknown: dict[str, Any]) -> None:
    found = totals(
        entry("all_reduce", sizes=[[1]], dtypes=["Float"], **unknown),
        entry("all_reduce", sizes=[[1]], dtypes=["Float"], milliseconds=500),
    )
    assert found == {("language.tp", "all_reduce"): (2.0, 8.0, 0.5)}


def rows(*entries: dict[str, Any]) -> tuple[RankCommunication, ...]:
    """Rows of entries of one step."""
    return summarise(calls_of(entries, groups={}), None, num_steps=1)


def test_calls_that_compiled_code_made_without_python_count_as_the_recorder_saw_them() -> None:
    seen = entry("all_reduce", sizes=[[2]], dtypes=["Float"])
    hidden = entry("all_reduce", sizes=[[8]], dtypes=["Float"], milliseconds=500)
    (found,) = join(rows(seen), rows({**seen, "duration_ms": 250}, hidden))
    assert (found.calls_per_step, found.bytes_per_step, found.seconds_per_step) == (2.0, 40.0, 0.75)


def test_calls_that_the_recorder_missed_count_as_python_made_them() -> None:
    made = entry("all_reduce", sizes=[[2]], dtypes=["Float"])
    (found,) = join(rows(made, made), rows({**made, "duration_ms": 250}))
    assert (found.calls_per_step, found.bytes_per_step, found.seconds_per_step) == (2.0, 16.0, 0.25)


def test_a_call_is_waited_for_until_a_watchdog_retires_it_whatever_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever dumps the recorder makes a call completed; the watchdog times it later.
    call = entry("all_reduce", sizes=[[2]], dtypes=["Float"], record_id=1, retired=False)
    message = entry("send 0->1", sizes=[[4]], dtypes=["Float"], record_id=2, retired=False, is_p2p=True)
    timed = {"retired": True, "duration_ms": 500}
    dumps = [[call, message], [call | timed, message], [call | timed, message | timed], [call | timed, message | timed]]
    monkeypatch.setattr(recorder, "_dump", lambda: {"entries": dumps.pop(0)})
    monkeypatch.setattr(recorder, "_WATCHDOG_SECONDS", 0.0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert [found.seconds for found in recorder.read_calls(0)] == [0.5, 0.5]
    assert not dumps


def test_calls_that_the_recorder_forgot_are_missed_and_not_taken_for_none() -> None:
    kept = [{"record_id": number} for number in (7, 8, 9)]
    assert entries_behind(kept, 6) == kept
    assert entries_behind(kept, 8) == kept[2:]
    assert entries_behind(kept, 9) == []
    with pytest.raises(
        RecordError, match="holds 3 calls and forgot the first 4 of this window; take fewer timed steps"
    ):
        entries_behind(kept, 2)


def test_a_collective_without_tensors_is_a_call_of_no_bytes() -> None:
    bare = {"process_group": ["0", "default_pg"], "profiling_name": "nccl:barrier"}
    assert totals(bare) == {("default_pg", "barrier"): (1.0, 0.0, 0.0)}


def test_nothing_recorded_is_nothing_summarised() -> None:
    assert totals() == {}


# As two H200s left it: one step of the tiny model, vision on one GPU and language on the other.
RECORDED = json.loads((Path(__file__).parents[1] / "fixtures" / "flight_recorder.json").read_text())


@pytest.mark.parametrize(("rank", "seconds"), [(0, 0.0387835), (1, 0.0128201)])
def test_a_recorders_own_words_give_bytes_transfer_and_wait(rank: int, seconds: float) -> None:
    by_rank = [calls_of(said["entries"], groups=said["pg_config"]) for said in (RECORDED["rank0"], RECORDED["rank1"])]
    transfers = transfer_seconds([[Signature.of(call) for call in calls] for calls in by_rank], rank)
    assert None not in transfers
    rows = {(row.role, row.collective): row for row in summarise(by_rank[rank], transfers, num_steps=1)}
    bridge = "bridge.vision->language"
    # 2 micro-batches of 4 images of 16 tokens of width 64 in fp32, and their shapes of two numbers of 8 bytes.
    for collective in ("send", "recv"):
        row = rows[bridge, collective]
        assert (row.calls_per_step, row.bytes_per_step) == (4, 2 * (4 * 16 * 64 * 4 + 2 * 8))
    # Batched messages: each rank waits for the other in turn, and the transfer is the same seen from both ends.
    batch = rows[bridge, "coalesced"]
    assert batch.seconds_per_step == pytest.approx(seconds)
    assert batch.transfer_seconds == pytest.approx(0.0002122)
    # Groups of one rank are left out.
    assert {role for role, _ in rows} == {bridge, "default_pg"}
