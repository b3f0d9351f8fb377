"""How long the largest reports take, how large they are, how soon they open: 200 layouts on 64 ranks, 1,000 on 512.

`nox -s perf`; kept apart from the tests, because times of a busy machine say little about the code.
"""

from __future__ import annotations

import resource
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from playwright.sync_api import CDPSession

from mimo_bench.record import RankAccount, RankMemory, RankRecord, RunRecord
from mimo_bench.record.files import write_layout, write_run
from mimo_bench.record.merge import (
    merge_account,
    merge_communication,
    merge_launch,
    merge_memory,
    merge_timing,
    merge_training,
)
from mimo_bench.report import HTML_FILE, MARKDOWN_FILE, render_html, write_report
from tests.browser import chromium
from tests.perf.processors import Cost, cost_of
from tests.support import golden, synthetic

MIB = 1024**2
NUM_LAYOUTS, NUM_RANKS, MANY_SECONDS, MANY_BYTES = 1000, 512, 60.0, 2e9
RENDER_SECONDS, OPEN_SECONDS, PAGE_BYTES, SUMMARY_BYTES, PEAK_BYTES = 10.0, 2.0, 10_000_000, MIB, 256 * MIB


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return synthetic.run(num_layouts=200, num_ranks=64, num_steps=20)


def took(action: Callable[[], object]) -> float:
    """Seconds of this process's processors, which a busy machine stretches less than those on the wall."""
    began = time.process_time()
    action()
    return time.process_time() - began


def worked(session: CDPSession) -> float:
    """Seconds that the page's main thread has worked so far, by its own clock."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))


def test_rendering_writing_and_their_sizes(record: RunRecord, tmp_path: Path) -> None:
    seconds = took(lambda: write_report(tmp_path, record))
    page, summary = ((tmp_path / name).stat().st_size for name in (HTML_FILE, MARKDOWN_FILE))
    print(f"\nrendered in {seconds:.2f} s: page {page / 1e6:.2f} MB, summary {summary / 1e3:.0f} kB")
    assert seconds < RENDER_SECONDS
    assert page < PAGE_BYTES
    assert summary < SUMMARY_BYTES


def reported_by(num_ranks: int) -> tuple[RankRecord, ...]:
    """What ranks leave behind that were judged, timed and watched, all in one."""
    layout = synthetic.run(num_layouts=1, num_ranks=num_ranks).layouts[0]
    assert layout.memory is not None
    assert layout.account is not None
    first = golden.ranks(golden.WRONG)[0]
    return tuple(
        first.model_copy(
            update={
                "rank": memory.rank,
                "modules": memory.modules,
                "step_seconds": (0.4,) * 10,
                "tokens": (4096,) * 10,
                "memory": RankMemory(**dict(memory)),
                "account": RankAccount(**dict(account)),
            }
        )
        for memory, account in zip(layout.memory.ranks, layout.account.ranks, strict=True)
    )


def write_many(directory: Path) -> Cost:
    """Write what very many ranks become, as a matrix does; the most memory is that of the record and of writing it."""
    many = synthetic.run(num_layouts=NUM_LAYOUTS, num_ranks=NUM_RANKS, num_steps=20)

    def write() -> None:
        for layout in many.layouts:
            write_layout(directory, layout)
        write_run(directory, many)

    seconds = took(write)
    return Cost(seconds=seconds, peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def test_merging_and_reporting_very_many_ranks(tmp_path: Path) -> None:
    ranks = reported_by(NUM_RANKS)

    def merge() -> None:
        for _ in range(NUM_LAYOUTS):
            merge_training(ranks, num_parity_steps=3)
            merge_timing(ranks, global_batch_size=NUM_RANKS)
            assert merge_memory(ranks) is not None
            assert merge_account(ranks) is not None
            merge_communication(ranks)
            merge_launch(ranks, asked_at=0.0, previous_last_step_at=None)

    merging = took(merge)
    # In a process of its own: one that is started by a large process counts as large itself.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        writing = pool.submit(write_many, tmp_path).result()
    reporting = cost_of("-m", "mimo_bench", "report", str(tmp_path))
    page = (tmp_path / HTML_FILE).stat().st_size
    print(
        f"\n{NUM_LAYOUTS} layouts on {NUM_RANKS} ranks: merged in {merging:.1f} s, written in {writing.seconds:.1f} s "
        f"with {writing.peak_bytes / 1e9:.2f} GB at most, read and rendered in {reporting.seconds:.1f} s with "
        f"{reporting.peak_bytes / 1e9:.2f} GB at most; page {page / 1e6:.2f} MB"
    )
    assert merging + writing.seconds + reporting.seconds < MANY_SECONDS
    assert max(writing.peak_bytes, reporting.peak_bytes) < MANY_BYTES
    assert page < PAGE_BYTES


def test_memory_at_its_peak(record: RunRecord) -> None:
    tracemalloc.start()
    try:
        render_html(record)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f"\npeak of Python's memory while rendering: {peak / MIB:.0f} MiB")
    assert peak < PEAK_BYTES


def test_opening_it_and_a_layout_of_it(record: RunRecord, tmp_path: Path) -> None:
    write_report(tmp_path, record)
    with chromium.running() as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto((tmp_path / HTML_FILE).as_uri(), wait_until="load")
        opened = worked(session)
        page.locator("#layout-150 summary").first.click()
        assert page.locator("#layout-150 .ranks li").count() == 64
        drawn = worked(session)
        page.locator("thead button").nth(6).click()
        last = worked(session)
    print(f"\nopened in {opened:.2f} s, a layout drawn in {drawn - opened:.2f} s, sorted in {last - drawn:.2f} s")
    assert opened < OPEN_SECONDS
