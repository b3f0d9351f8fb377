"""Fixtures of all tests, and the order in which workers take the files."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from mimo_bench.launch import Launcher
from tests.support.budget import BudgetPlugin, longest_first

# Before torch is imported: tensors in tests are tiny, and threads that wait for each other spin on a shared core.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Compare the seconds of each test file with its budget, which is for the tests of every day."""
    # All results arrive in the process that starts the workers of pytest-xdist.
    if not hasattr(config, "workerinput") and config.option.markexpr == "not nightly":
        config.pluginmanager.register(BudgetPlugin())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give workers of pytest-xdist the long files first; a single process keeps the order of the files."""
    if hasattr(config, "workerinput"):
        longest_first(items)


SHARED = dict.fromkeys((f"tests/ranks/test_{name}.py" for name in ("grads", "step", "topology", "weights")), "observed")
"""Files that read the same launches: one worker takes all of them."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal whole files out to the workers, and files that share launches together."""
    from xdist.scheduler import LoadFileScheduling

    scheduling = LoadFileScheduling(config, log)
    scheduling._split_scope = lambda nodeid: SHARED.get(file := nodeid.partition("::")[0], file)
    return scheduling


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_a_terminal() -> Iterator[None]:
    """Let signals end the processes of tests: under nohup or a script they would inherit that signals are ignored."""
    handlers: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGUSR1: signal.SIG_DFL,
        signal.SIGUSR2: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_in_the_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let `datasets` keep its cache in the folder that tests write to; ranks inherit it."""
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))


STARTERS = ("gate.campaign", "linkspeed", "matrix", "overhead")
"""Modules of `mimo_bench.bench` that start a launcher."""

PRELOAD = (
    "mimo_bench.bench.ranks.worker",
    # What ranks that read a user's own files import for their processor: two seconds each, where no fork server has it.
    "transformers.models.auto.processing_auto",
    "transformers.models.clip.image_processing_pil_clip",
    "transformers.models.llava.processing_llava",
)


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Ranks on the CPU over gloo; their imports are made once for the whole session."""
    with Launcher(device_kind="cpu", preload=PRELOAD) as launcher:
        yield launcher


@pytest.fixture
def warm_commands(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the ranks of commands that the test calls in this process from the session's launcher."""
    # `train` imports its launcher from the package when it is called. So the package comes last: a module that was
    # first imported after it would keep what this test puts there.
    for module in (*(f"bench.{name}" for name in STARTERS), "launch"):
        monkeypatch.setattr(f"mimo_bench.{module}.Launcher", lambda **_: nullcontext(launcher))
