"""A history as files: one directory a run, which is never changed once it has its name.

    HISTORY/runs/<UTC start>-<digest>/    run.json, report and series as they were added; nights.json
    HISTORY/expectations.toml             references and expected failures, written by the user
    HISTORY/trend.html                    the page over all nights

A run is copied into a temporary directory that is renamed when it is whole. Readers and parallel writers need no lock:
a run is in the history if its directory is.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import IO, Final, Literal

from pydantic import BaseModel, ValidationError

from mimo_bench.record import RUN_FILE, RunRecord, read_run
from mimo_bench.report.history.nights import Night, nights_of
from mimo_bench.util import HistoryError, RecordError, naming, new_directory

NIGHTS_FILE = "nights.json"
EXPECTATIONS_FILE = "expectations.toml"
TREND_FILE = "trend.html"

KEPT = (
    RUN_FILE,
    "report.html",
    "report.md",
    "junit.xml",
    "layouts/*/steps.parquet",
    "layouts/*/communication.parquet",
)
"""Files of a run that are kept; logs and the ranks' own records are not."""

LEFTOVER_SECONDS: Final = 3600.0
"""Age from which a temporary directory is one that a killed writer left."""


EARLIEST: Final = datetime(2025, 1, 1, tzinfo=UTC)
"""Start before which no run was: mimo-bench is younger."""


class Nights(BaseModel):
    """Content of `nights.json`: what the history follows of one run, made from its `run.json`."""

    version: Literal[2] = 2
    """Raise it when a field of `Night` means something else: files of before are then made again."""
    nights: tuple[Night, ...]


class History:
    """The runs kept in one directory."""

    def __init__(self, directory: Path) -> None:
        """Open the history in `directory`; the first run makes it."""
        self.directory = directory

    @classmethod
    def existing(cls, directory: Path) -> History:
        """Open the history in `directory`.

        Raises:
            HistoryError: it holds no history.
        """
        if not (directory / "runs").is_dir():
            raise HistoryError(
                f"{directory}: no history there; `run --history {directory}` or `history add {directory} DIR` makes one"
            )
        return cls(directory)

    @property
    def expectations_file(self) -> Path:
        """Path of the file in which the user writes references and expected failures."""
        return self.directory / EXPECTATIONS_FILE

    def add(self, run_directory: Path) -> str:
        """Keep the run in `run_directory`, and return its name in the history; adding a run twice keeps it once.

        Raises:
            RecordError: there is no record, or it cannot be read.
            HistoryError: the run did not finish, as incomplete runs are not comparable; or the history cannot be
                written, and the run stays in its directory.
        """
        record = read_run(run_directory)
        if record.finished_at is None:
            raise HistoryError(f"{run_directory / RUN_FILE}: the run did not finish; resume it with run --resume")
        name = run_name(record, (run_directory / RUN_FILE).read_bytes())
        place = self.run_directory(name)
        if place.parent.is_dir():
            _sweep(place.parent)
        if place.exists() and not (place / RUN_FILE).exists():
            # Half a copy, of an older version or of a disk that lost a file. A run is published whole.
            shutil.rmtree(place, ignore_errors=True)
        if not place.exists():
            try:
                with new_directory(place) as incoming:
                    for path in (path for pattern in KEPT for path in run_directory.glob(pattern)):
                        with path.open("rb") as file:
                            _write(incoming, path.relative_to(run_directory), file)
                    _write_nights(incoming, tuple(nights_of(record, run=name)))
            except OSError as error:
                # Another writer may have kept the same run meanwhile.
                if not place.exists():
                    raise HistoryError(
                        f"{self.directory}: the run could not be kept: {error}; nothing of it is lost in "
                        f"{run_directory}, and `mimo-bench history add {self.directory} {run_directory}` keeps it"
                    ) from error
        return name

    def run_directory(self, run: str) -> Path:
        """Return the directory of the run of that name."""
        return self.directory / "runs" / run

    def nights(self) -> list[Night]:
        """Return every layout of every run that can be read, oldest first."""
        found = [
            replace(night, started_at=_plausible(night.started_at, directory))
            for directory in self._runs()
            for night in _read_nights(directory)
        ]
        return sorted(found, key=lambda night: (night.started_at, night.run))

    def damaged(self) -> list[Path]:
        """Return the runs whose record cannot be read."""
        return [directory for directory in self._runs() if not _from_record(directory)]

    def _runs(self) -> Iterator[Path]:
        # Temporary directories begin with a dot.
        return (path for path in (self.directory / "runs").glob("[!.]*") if path.is_dir())


def run_name(record: RunRecord, content: bytes) -> str:
    """Return a name that sorts by time and is the same for the same record: UTC start and a digest."""
    started_at = record.started_at.astimezone(UTC)
    return f"{started_at:%Y%m%dT%H%M%SZ}-{hashlib.sha256(content).hexdigest()[:8]}"


def _read_nights(run: Path) -> tuple[Night, ...]:
    """Return the nights of a kept run; make its `nights.json` again if it is missing, broken or of another version."""
    with suppress(OSError, ValidationError):
        content = Nights.model_validate_json((run / NIGHTS_FILE).read_bytes())
        # The directory's name counts.
        return tuple(replace(night, run=run.name) for night in content.nights)
    if nights := _from_record(run):
        # A history may be read without being written.
        with suppress(OSError):
            _write_nights(run, nights)
    return nights


def _plausible(moment: datetime, run: Path) -> datetime:
    """Return the start of a kept run, or the time at which it was kept if its machine's clock was wrong."""
    with suppress(OSError):
        kept = datetime.fromtimestamp((run / RUN_FILE).stat().st_mtime, UTC)
        # Clocks of a machine and of a file server may differ, by no more than a day.
        if not EARLIEST <= moment <= kept + timedelta(days=1):
            return kept
    return moment


def _from_record(run: Path) -> tuple[Night, ...]:
    """Return the nights in a kept run's record; none if it cannot be read."""
    with suppress(RecordError):
        return tuple(nights_of(read_run(run), run=run.name))
    return ()


def _write_nights(run: Path, nights: tuple[Night, ...]) -> None:
    _write(run, Path(NIGHTS_FILE), BytesIO(Nights(nights=nights).model_dump_json(indent=1).encode()))


def _write(run: Path, name: Path, content: IO[bytes]) -> None:
    """Write a file below the directory of a run, onto the disk.

    Raises:
        FileNotFoundError: the directory is gone, because it was swept or removed; it is not made again.
    """
    for parent in reversed(name.parents[:-1]):
        (run / parent).mkdir(exist_ok=True)
    with naming(run / name), (run / name).open("wb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())


def _sweep(runs: Path) -> None:
    """Remove what killed writers left; a writer that is slower fails, and publishes no part of a run."""
    for left in runs.glob(".*"):
        with suppress(OSError):
            if time.time() - max(path.stat().st_mtime for path in (left, *left.rglob("*"))) > LEFTOVER_SECONDS:
                # Renamed first: a writer then loses all of it at once.
                removed = left.rename(runs / f".{secrets.token_hex(8)}.tmp")
                shutil.rmtree(removed, ignore_errors=True)
