"""Files and directories that appear whole or not at all, and a lock on a directory."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LOCK_FILE: Final = ".lock"

NO_LOCKS: Final = (errno.ENOLCK, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of file systems that cannot lock, such as NFS without a lock daemon."""


def write_atomically(path: Path, content: bytes | Iterable[bytes], *, synced: bool = True) -> Path:
    """Write `content` to `path` in one move and return `path`: a reader finds the old file or the whole new one.

    Large content may come in parts. Missing parent directories are made. Unless `synced` is false, the content is on
    disk before the file has its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same directory, so that the rename never crosses a file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), temporary.open("wb") as file:
            file.writelines((content,) if isinstance(content, bytes) else content)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in an OSError of the block that names no file, as one of a full disk does."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory next to `path` that is renamed to `path` if the block succeeds.

    Missing parent directories are made.

    Raises:
        OSError: `path` is a file, or a directory that is not empty.
    """
    place = path.absolute()
    # A process id alone is not unique on a disk that several hosts share.
    temporary = place.with_name(f".{place.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(place)
        sync_directory(place.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_temporary(path: Path) -> bool:
    """Return whether `path` is what a killed writer leaves: an unfinished file or directory, or a lock."""
    return path.name == LOCK_FILE or (path.name.startswith(".") and path.name.endswith(".tmp"))


def sweep(directory: Path) -> None:
    """Remove the unfinished files that killed writers left in `directory` and below it."""
    for path in directory.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Force the names in a directory onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold an exclusive lock on `directory`; the kernel releases it when the process exits.

    The lock is a file in the directory, because NFS locks only what is open for writing.

    Raises:
        TimeoutError: another process holds the lock.
    """
    # Only now: commands that write nothing need no lock.
    from filelock import BaseFileLock, FileLock, SoftFileLock

    path = directory / LOCK_FILE
    lock: BaseFileLock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        # A file that exists is then the lock; one that a dead process left is broken.
        lock = SoftFileLock(path)
        lock.acquire(timeout=0)
    try:
        yield
    finally:
        # Removed while it is held: a process that waits for the removed file notices, and opens a new one.
        path.unlink(missing_ok=True)
        lock.release()
