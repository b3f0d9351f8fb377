"""Scenarios as tests: `pytest scenarios/cpu_smoke.toml -k tp2 --junitxml=verdicts.xml` runs one item a layout.

pytest -> [plugin] -> matrix -> record: a layout passes as it does in `mimo-bench run`. Only scenario files that are
named on the command line are collected, or all `*.toml` with `--mimo-scenarios`; other runs of pytest see nothing.
Where pytest-benchmark is installed, the timed steps are replayed into it, so that its storage, compare and
compare-fail work on them.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mimo_bench.record import LayoutRecord, RunRecord

# This module is loaded in every run of pytest where mimo-bench is installed, so it imports nothing else by itself.


class NotPassedError(Exception):
    """A layout ended otherwise than passed; the message is its reason."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of their own group."""
    group = parser.getgroup("mimo-bench", "scenarios of mimo-bench as tests, one item a layout")
    group.addoption("--mimo-scenarios", action="store_true", help="collect every *.toml below the given folders, too")
    group.addoption("--mimo-device", choices=("auto", "cpu", "cuda"), default="auto", help="what ranks run on")
    group.addoption("--mimo-modes", default="parity,timing", metavar="MODES", help="as --modes of mimo-bench run")
    group.addoption("--mimo-plant", metavar="FAULT[@LAYOUT]", help="as --plant of mimo-bench run")
    group.addoption("--mimo-out", type=Path, metavar="DIR", help="as --out of mimo-bench run; by time if not given")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a scenario that the command line names, or any with `--mimo-scenarios`."""
    if file_path.suffix != ".toml":
        return None
    if parent.config.getoption("--mimo-scenarios") or file_path in _named(parent.config):
        return ScenarioFile.from_parent(parent, path=file_path)
    return None


def _named(config: pytest.Config) -> set[Path]:
    """The files of the command line."""
    return {(config.invocation_params.dir / word.partition("::")[0]).resolve() for word in config.args}


class ScenarioFile(pytest.File):
    """One scenario; its matrix runs once, over the layouts that were not deselected, when the first of them is due."""

    record: RunRecord | None = None
    _since = 0.0

    def __init__(self, **arguments: Any) -> None:
        """Open the file as pytest does."""
        super().__init__(**arguments)
        self.seconds: dict[str, float] = {}

    def collect(self) -> Iterable[pytest.Item]:
        """One item a layout, the baseline first, because it runs first."""
        from mimo_bench.scenario import load_scenario
        from mimo_bench.util import MimoBenchError

        try:
            scenario = load_scenario(self.path)
        except MimoBenchError as error:
            raise self.CollectError(str(error)) from None
        for name in sorted(scenario.names, key=lambda name: name != scenario.baseline):
            yield LayoutItem.from_parent(self, name=name, callobj=_check)

    def layout(self, name: str) -> LayoutRecord:
        """Return the entry of the layout called `name`, after a run of the matrix."""
        if self.record is None:
            self.record = self._run()
        return next(layout for layout in self.record.layouts if layout.name == name)

    def _run(self) -> RunRecord:
        from mimo_bench.bench import device_kind, parse_modes, plan_runs, run_matrix

        files = {item.parent for item in self.session.items if isinstance(item, LayoutItem)}
        out: Path | None = self.config.getoption("--mimo-out")
        (request,) = plan_runs(
            [self.path],
            out=out / self.path.stem if out is not None and len(files) > 1 else out,
            layouts=tuple(item.name for item in self.session.items if item.parent is self),
            device_kind=device_kind(self.config.getoption("--mimo-device")),
            modes=parse_modes(self.config.getoption("--mimo-modes")),
            plant=self.config.getoption("--mimo-plant"),
            command=("pytest", *map(str, self.config.invocation_params.args)),
        )
        return run_matrix(request, on_event=self._clock)

    def _clock(self, event: object) -> None:
        """Note the seconds of each layout: everything since the last one ended is its own."""
        from mimo_bench.report import LayoutEnded, MatrixStarted

        if isinstance(event, LayoutEnded | MatrixStarted):
            now = time.monotonic()
            if isinstance(event, LayoutEnded):
                self.seconds[event.layout.name] = now - self._since
            self._since = now


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Report each layout's own time: the first item of a file waits for all."""
    report: Any = yield
    if isinstance(item, LayoutItem) and call.when == "call":
        files: Any = item.parent
        report.duration = files.seconds.get(item.name, report.duration)
    return report


class LayoutItem(pytest.Function):
    """One layout of a scenario."""

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return file, no line, and name."""
        return self.path, None, f"{self.path.stem}: {self.name}"

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Its reason, without a traceback through mimo_bench."""
        from mimo_bench.util import MimoBenchError

        if isinstance(excinfo.value, NotPassedError | MimoBenchError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


def _check(request: pytest.FixtureRequest) -> None:
    """Fail unless the layout passed; replay its steps into pytest-benchmark where that is installed."""
    item: Any = request.node
    layout: LayoutRecord = item.parent.layout(item.name)
    if layout.status == "unjudged" and "parity" in request.config.getoption("--mimo-modes"):
        pytest.skip(layout.reason)
    if layout.status not in ("passed", "unjudged"):
        raise NotPassedError(f"{layout.status}: {layout.reason}")
    if layout.timing is not None and request.config.pluginmanager.hasplugin("benchmark"):
        replay = Replay(layout.timing.step_seconds)
        item.add_marker(pytest.mark.benchmark(timer=replay.now, group=item.parent.path.stem))
        benchmark: Any = request.getfixturevalue("benchmark")
        benchmark.extra_info["tokens_per_second_per_gpu"] = layout.timing.tokens_per_second_per_gpu
        benchmark.pedantic(replay, rounds=len(layout.timing.step_seconds), iterations=1)


class Replay:
    """A clock that a replayed step moves on by as long as the step took."""

    def __init__(self, step_seconds: tuple[float, ...]) -> None:
        """Replay these steps, in order."""
        self._left = list(step_seconds)
        self._now = 0.0

    def now(self) -> float:
        """Seconds that were replayed so far."""
        return self._now

    def __call__(self) -> None:
        """Replay one step."""
        self._now += self._left.pop(0)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add the machine type of the ranks to the machine that pytest-benchmark itself runs on."""
    if (machine := _machine(config)) is not None:
        machine_info["mimo_bench"] = machine


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
) -> None:
    """Refuse to compare step times of different machines.

    Raises:
        pytest.exit.Exception: naming both; pytest ends as after bad usage.
    """
    before = compared_benchmark["machine_info"].get("mimo_bench")
    now = machine_info.get("mimo_bench")
    if now is not None and before != now:
        pytest.exit(
            f"mimo-bench: step times were stored on {before or 'an unknown machine'} and are now of {now}; compare "
            f"runs of one kind of machine",
            returncode=pytest.ExitCode.USAGE_ERROR,
        )


def _machine(config: pytest.Config) -> str | None:
    """The machine that ranks will run on; None where the session is about no scenario.

    Asked before anything runs, because that is when pytest-benchmark loads what it is to compare with.
    """
    if not (config.getoption("--mimo-scenarios") or any(path.suffix == ".toml" for path in _named(config))):
        return None
    from mimo_bench.bench import device_kind
    from mimo_bench.meters import read_environment
    from mimo_bench.record import machine

    return machine(read_environment(device_kind(config.getoption("--mimo-device"))))
