"""A function of a test file called on real ranks: `on_ranks(2)(function)`, with its results back in the test.

@on_ranks(2)
def add_up() -> float:
join("cpu")
...

def test_ranks_add_up(launcher: Launcher, tmp_path: Path) -> None:
assert add_up(launcher, tmp_path) == [3.0, 3.0]
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mimo_bench.launch import Job, Launcher


class OnRanks[Result]:
    """Calls `body` on every rank of one launch; parameters and results must be picklable."""

    def __init__(self, body: Callable[..., Result], world_size: int, environment: Mapping[str, str]) -> None:
        self.body = body
        self._world_size = world_size
        self._environment = environment

    def __call__(self, launcher: Launcher, folder: Path, **parameters: Any) -> list[Result]:
        """Return what `body` returned on each rank; logs and results go to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "parameters.pickle").write_bytes(pickle.dumps(parameters))
        name = f"{self.body.__module__}:{self.body.__qualname__}"
        outcome = launcher.launch(
            Job(
                entry="tests.support.ranks:call",
                arguments={"function": name, "folder": str(folder)},
                world_size=self._world_size,
                log_dir=folder,
                hang_seconds=60.0,
                environment=self._environment,
            )
        )
        assert outcome.ended == "finished", (outcome, (folder / f"rank{outcome.rank or 0}.log").read_text())
        return [pickle.loads((folder / f"rank{rank}.pickle").read_bytes()) for rank in range(self._world_size)]


def on_ranks[Result](
    world_size: int, *, environment: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Result]], OnRanks[Result]]:
    """Return the decorator that turns a function of a test file into one that `world_size` ranks call.

    A rank sets `environment` before it imports the test file.
    """
    return lambda body: OnRanks(body, world_size, environment or {})


def call(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Call the function on this rank; what it returns goes to `rank<k>.pickle`."""
    folder = Path(arguments["folder"])
    module, _, name = arguments["function"].partition(":")
    if os.environ.get("TRITON_INTERPRET") == "1":
        _forget_triton()
    found = getattr(importlib.import_module(module), name)
    function = found.body if isinstance(found, OnRanks) else found
    parameters = pickle.loads((folder / "parameters.pickle").read_bytes())
    (folder / f"rank{rank}.pickle").write_bytes(pickle.dumps(function(**parameters)))


def _forget_triton() -> None:
    # Triton 3.6 decides while it is imported whether its own functions, such as sum, are interpreted; the fork server
    # has imported it for GPUs. Extension modules stay: they can be imported only once.
    for name in [name for name in sys.modules if name.partition(".")[0] == "triton" and "._C" not in name]:
        del sys.modules[name]
