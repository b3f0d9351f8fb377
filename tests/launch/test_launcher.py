"""The starter's environment and its directory for sockets."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from mimo_bench.launch import launcher
from mimo_bench.util.errors import LaunchError


def test_sockets_have_a_short_place_however_long_tmpdir_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / ("x" * 76)
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    assert launcher._short_directory() == "/tmp"
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(LaunchError, match=rf"TMPDIR = {place}: .* at most 75 bytes, and this has {len(str(place))}"):
        launcher._short_directory()
    monkeypatch.undo()
    assert launcher._short_directory() == tempfile.gettempdir()


def test_compilers_of_a_user_without_name_or_home_keep_their_files_with_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setenv("HOME", str(tmp_path))
    assert launcher._compiler_cache({}, "/tmp/a") == {}
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert launcher._compiler_cache({name: "mine"} | {"TORCHDYNAMO_DISABLE": "1"}, "/tmp/a").keys() == {
            "TORCHINDUCTOR_CACHE_DIR",
            "TRITON_CACHE_DIR",
        } - {name}
    both = {"TORCHINDUCTOR_CACHE_DIR": "/tmp/a", "TRITON_CACHE_DIR": "/tmp/a"}
    monkeypatch.setenv("HOME", "/nonexistent")
    assert launcher._compiler_cache({}, "/tmp/a") == both
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("getpass.getuser", fail)
    assert launcher._compiler_cache({}, "/tmp/a") == both
