"""Files and directories appear whole or not at all, and a lock has one holder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from mimo_bench.util.files import LOCK_FILE, is_temporary, locked, new_directory, sweep, write_atomically


def test_a_file_is_written_with_its_directories_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    assert write_atomically(path, b"old") == path
    write_atomically(path, (b"ne", b"w"))
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_whose_content_fails_leaves_the_old_one_and_no_temporary(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "file", b"old")
    with pytest.raises(ZeroDivisionError):
        write_atomically(path, (b"%d" % (1 // number) for number in (1, 0)))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_where_a_directory_is_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError, match=r"run\.json"):
        write_atomically(tmp_path / "run.json", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_full_disk_is_named_with_the_file_that_was_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "run.json", b"content")
    assert caught.value.filename == str(tmp_path / "run.json")


def test_a_new_directory_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "on" / "the" / "way"
    with new_directory(place) as temporary:
        (temporary / "file").write_text("x")
        assert is_temporary(temporary)
        assert not place.exists()
    assert (place / "file").read_text() == "x"
    with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "other"):
        raise ZeroDivisionError
    with pytest.raises(OSError, match="not empty"), new_directory(place):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["on"]
    assert list(place.parent.iterdir()) == [place]


def test_what_a_killed_writer_leaves_is_swept(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from mimo_bench.util.files import write_atomically;"
        "write_atomically(Path(sys.argv[1]) / 'a' / 'file', (os.kill(os.getpid(), 9) for _ in range(1)))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
    (left,) = (tmp_path / "a").iterdir()
    assert is_temporary(left)
    sweep(tmp_path)
    assert list((tmp_path / "a").iterdir()) == []


def test_a_lock_has_one_holder_and_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from mimo_bench.util.files import locked\n"
        "with locked(Path(sys.argv[1])): os._exit(0)"
    )
    other = [sys.executable, "-c", program, str(tmp_path)]
    with locked(tmp_path):
        refused = subprocess.run(other, capture_output=True, text=True, check=False)
        assert refused.returncode != 0
        assert "Timeout" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    # A holder that ends without a word leaves the file, and the lock is free.
    assert subprocess.run(other, check=False).returncode == 0
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
def test_on_a_file_system_without_locks_the_file_itself_is_the_lock(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with locked(tmp_path):
        with pytest.raises(TimeoutError), locked(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []
