"""Seconds per test file: the order in which two workers take the files, and the verdict on files that became slow.

`tests/budget.toml` holds what each file took on two quiet cores. A slow machine stretches every file alike, so a file
is compared with the pace of the others: it fails only if it exceeds its own budget by half at that pace.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import pytest

BUDGETS = Path(__file__).parents[1] / "budget.toml"
UNLISTED_SECONDS = 3.0
"""Budget of a file that `budget.toml` does not list."""
ALLOWED_SHARE = 1.5
ALLOWED_SECONDS = 10.0
"""On top of the share: the first file with ranks waits for torch and megatron-core to be imported."""
MIN_FILES = 8
"""Listed files that must have run; the pace of fewer says nothing about the machine."""


def read_budgets() -> dict[str, float]:
    """Return the seconds of each listed file, by its path from the repository's root."""
    return {file: float(seconds) for file, seconds in tomllib.loads(BUDGETS.read_text(encoding="utf-8")).items()}


def pace(seconds: Mapping[str, float], budgets: Mapping[str, float]) -> float | None:
    """Return how much slower than budgeted the median file ran, at least 1, or None if too few files ran."""
    shares = [spent / budgets[file] for file, spent in seconds.items() if file in budgets]
    return max(1.0, median(shares)) if len(shares) >= MIN_FILES else None


def exceeded(seconds: Mapping[str, float], budgets: Mapping[str, float]) -> list[str]:
    """Return a line for each file that took more than half above its budget, at the pace of all files."""
    if (slowdown := pace(seconds, budgets)) is None:
        return []
    limits = {
        file: ALLOWED_SHARE * slowdown * budgets.get(file, UNLISTED_SECONDS) + ALLOWED_SECONDS for file in seconds
    }
    return [
        f"{file}: {spent:.0f} s: more than {limits[file]:.0f} s, which its budget of "
        f"{budgets.get(file, UNLISTED_SECONDS):g} s allows at a pace of {slowdown:.1f}; "
        f"make it faster, or raise it in tests/budget.toml"
        for file, spent in sorted(seconds.items())
        if spent > limits[file]
    ]


class BudgetPlugin:
    """Sums the seconds of each file over setup, call and teardown, and fails the session if one exceeds its budget."""

    def __init__(self) -> None:
        self._budgets = read_budgets()
        self._seconds: dict[str, float] = defaultdict(float)
        self._exceeded: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the seconds of one phase of one test."""
        self._seconds[report.nodeid.partition("::")[0]] += report.duration

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Compare with the budgets; a session that was stopped early is not judged."""
        if session.exitstatus == pytest.ExitCode.OK and (lines := exceeded(self._seconds, self._budgets)):
            self._exceeded = lines
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the files that exceeded their budgets, and the seconds of the longest files with `--durations`."""
        if terminalreporter.config.option.durations is not None:
            terminalreporter.section("seconds per file")
            longest = sorted(self._seconds.items(), key=lambda item: -item[1])
            for file, spent in longest[: terminalreporter.config.option.durations or None]:
                terminalreporter.line(f"{spent:7.1f} s of {self._budgets.get(file, UNLISTED_SECONDS):5g} s  {file}")
        if self._exceeded:
            terminalreporter.section("budgets exceeded", red=True)
            for line in self._exceeded:
                terminalreporter.line(f"FAILED {line}")


def longest_first(items: list[pytest.Item]) -> None:
    """Order tests by the budget of their file, so that no worker begins a long file when the other has ended."""
    budgets = read_budgets()
    items.sort(key=lambda item: -budgets.get(item.nodeid.partition("::")[0], UNLISTED_SECONDS))
