"""The history of runs as files: one directory a run, written once, and an index that can always be made again.

    HISTORY/runs/<UTC start>-<digest>/    run.json, report, series: what was added, never changed
    HISTORY/index.parquet                 one row a layout and run; only ever a copy of what the runs say
    HISTORY/expectations.toml             yours: references and expected failures
    HISTORY/trend.html                    the page over all nights

A run is copied beside its place and renamed into it, so that readers and parallel writers see all of it or nothing.
Writers of the index wait for each other; a run that is on disk and not in the index, because its writer was killed in
between or wrote meanwhile, is taken in by whoever comes next.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from datetime import UTC
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mimo_bench.record import RUN_FILE, RunRecord, read_run
from mimo_bench.report.history.nights import Night, nights_of
from mimo_bench.util import HistoryError, RecordError, write_atomically

INDEX_FILE = "index.parquet"
EXPECTATIONS_FILE = "expectations.toml"
TREND_FILE = "trend.html"

KEPT = (
    "run.json",
    "report.html",
    "report.md",
    "junit.xml",
    "layouts/*/steps.parquet",
    "layouts/*/communication.parquet",
)
"""What of a run's directory is kept: all that people and programs read; logs and ranks' own records stay behind."""

SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("scenario", pa.string()),
        ("scenario_hash", pa.string()),
        ("measured_by", pa.string()),
        ("machine", pa.string()),
        ("layout", pa.string()),
        ("status", pa.string()),
        ("tainted", pa.string()),
        ("commit", pa.string()),
        ("software", pa.string()),
        ("step_seconds", pa.float64()),
        ("launch_medians", pa.list_(pa.float64())),
        ("tokens_per_second_per_gpu", pa.float64()),
        ("peak_allocated_bytes", pa.float64()),
    ]
)
assert SCHEMA.names == [field.name for field in fields(Night)]


class History:
    """The runs kept in one directory."""

    def __init__(self, directory: Path) -> None:
        """The history in `directory`; it is made with the first run."""
        self.directory = directory

    @classmethod
    def existing(cls, directory: Path) -> History:
        """The history in `directory`.

        Raises:
            HistoryError: nothing was ever kept there.
        """
        if not (directory / "runs").is_dir():
            raise HistoryError(
                f"{directory}: no history there; `run --history {directory}` or `history add {directory} DIR` makes one"
            )
        return cls(directory)

    @property
    def expectations_file(self) -> Path:
        """Where people write down what they expect."""
        return self.directory / EXPECTATIONS_FILE

    def add(self, run_directory: Path) -> str:
        """Keep the run in `run_directory` and return the name that it has from now on; twice is once.

        Raises:
            RecordError: there is no record, or it cannot be read.
            HistoryError: the run did not finish; what ended early says nothing of the nights around it.
        """
        record = read_run(run_directory)
        if record.finished_at is None:
            raise HistoryError(f"{run_directory / RUN_FILE}: the run did not finish; go on with it by run --resume")
        name = run_name(record, (run_directory / RUN_FILE).read_bytes())
        self._copy_in(run_directory, name)
        self.nights()
        return name

    def run_directory(self, run: str) -> Path:
        """Where the run of that name lies."""
        return self.directory / "runs" / run

    def nights(self) -> list[Night]:
        """Every layout of every run, oldest first; the index is brought up to date on the way."""
        if not (self.directory / "runs").is_dir():
            return []
        with self._locked():
            on_disk = set(self._runs())
            known = [night for night in self._read_index() if night.run in on_disk]
            if missing := sorted(on_disk - {night.run for night in known}):
                known += [night for run in missing for night in self._read(run)]
                self._write_index(known)
        return sorted(known, key=lambda night: (night.started_at, night.run))

    def damaged(self) -> list[Path]:
        """Runs whose record cannot be read; they are left out until somebody mends or removes them."""
        return [self.run_directory(run) for run in self._runs() if not self._read(run)]

    def _runs(self) -> Iterator[str]:
        for entry in (self.directory / "runs").iterdir():
            # What is being copied in, or was when its writer was killed, begins with a dot.
            if entry.is_dir() and not entry.name.startswith("."):
                yield entry.name

    def _read(self, run: str) -> list[Night]:
        with suppress(RecordError):
            return list(nights_of(read_run(self.run_directory(run)), run=run))
        return []

    def _copy_in(self, source: Path, name: str) -> None:
        runs = self.directory / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        with self._locked():
            _sweep(runs)
            incoming = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=runs))
            held = _take(incoming)
        try:
            for path in (path for pattern in KEPT for path in source.glob(pattern)):
                write_atomically(incoming / path.relative_to(source), path.read_bytes())
            incoming.chmod(0o755)
            _put(incoming, runs / name)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
            os.close(held)

    def _read_index(self) -> list[Night]:
        # An index that is missing, cut short or of another version is made again from the runs.
        with suppress(OSError, pa.ArrowInvalid, TypeError, KeyError):
            table = pq.read_table(self.directory / INDEX_FILE)
            if table.schema.equals(SCHEMA):
                return [Night(**row | {"launch_medians": tuple(row["launch_medians"])}) for row in table.to_pylist()]
        return []

    def _write_index(self, nights: Iterable[Night]) -> None:
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([asdict(night) for night in nights], schema=SCHEMA), buffer)
        write_atomically(self.directory / INDEX_FILE, buffer.getvalue())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer of the index at a time; the kernel lets go of the lock whatever ends its holder."""
        handle = _take(self.directory)
        try:
            yield
        finally:
            os.close(handle)


def _take(directory: Path, *, wait: bool = True) -> int:
    """Hold `directory` until what this returns is closed, by us or by the kernel.

    Raises:
        BlockingIOError: somebody else does, and we do not want to wait.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        raise
    return handle


def _sweep(runs: Path) -> None:
    """Remove what writers that were killed had copied so far; whoever still copies holds its own."""
    for left in runs.glob(".*"):
        with suppress(BlockingIOError):
            handle = _take(left, wait=False)
            shutil.rmtree(left, ignore_errors=True)
            os.close(handle)


def run_name(record: RunRecord, content: bytes) -> str:
    """A name that sorts by time and is the same for the same record: UTC start and a digest."""
    started_at = record.started_at.astimezone(UTC)
    return f"{started_at:%Y%m%dT%H%M%SZ}-{hashlib.sha256(content).hexdigest()[:8]}"


def _put(incoming: Path, place: Path) -> None:
    """Rename into place, and have it on disk."""
    try:
        incoming.rename(place)
    except OSError:
        # Whoever was first with the same run has put the same there.
        if not place.is_dir():
            raise
    handle = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
