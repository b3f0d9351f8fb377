"""What is made of the committed GPU runs: `nox -s reports` makes all of it anew, once a run or a page changed.

Every run's own page, summary and junit.xml; the trend page over all of them; the error of the memory that was predicted
for them, as a table in `docs/meters.md`; and the README's pictures.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mimo_bench.predict import predict_memory
from mimo_bench.record import RunRecord
from mimo_bench.record.files import read_run
from mimo_bench.report import write_report
from mimo_bench.report.history.expectations import Expectations
from mimo_bench.report.history.store import History
from mimo_bench.report.history.trend import render_trend
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.util.files import write_atomically

REPOSITORY = Path(__file__).parents[1]
REPORTS = REPOSITORY / "reports"
METERS = REPOSITORY / "docs" / "meters.md"
START, END = "<!-- predicted: start -->", "<!-- predicted: end -->"


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Ranks of one layout that were predicted and measured alike."""

    run: str
    layout: str
    ranks: tuple[int, ...]
    measured: int
    predicted: int

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.predicted / self.measured - 1


def directories() -> list[Path]:
    """Every committed run."""
    return sorted(path.parent for path in REPORTS.glob("*/run.json"))


def measured() -> list[Path]:
    """Every committed run whose memory was measured: what ran in parity mode alone has no peak worth its name."""
    return [directory for directory in directories() if errors(directory)]


def predicted(directory: Path) -> list[Predicted]:
    """The fullest rank of each layout of a run, and every other that was predicted another peak."""
    record = read_run(directory)
    found: dict[tuple[str, int], Predicted] = {}
    for layout, rank, measured, expected in _peaks(record):
        known = found.get((layout, expected))
        ranks = (*(known.ranks if known else ()), rank)
        most = max(measured, known.measured if known else 0)
        found[layout, expected] = Predicted(
            run=directory.name, layout=layout, ranks=ranks, measured=most, predicted=expected
        )
    return list(found.values())


def errors(directory: Path) -> list[float]:
    """Of every rank's predicted peak."""
    return [expected / measured - 1 for _, _, measured, expected in _peaks(read_run(directory))]


def _peaks(record: RunRecord) -> Iterator[tuple[str, int, int, int]]:
    """Layout, rank, measured and predicted peak: what today's formulas say, not those of the day of the run."""
    scenario = Scenario.model_validate_json(json.dumps(record.scenario))
    for layout in record.layouts:
        if layout.memory is not None:
            for expected, measured in zip(predict_memory(scenario, layout.name), layout.memory.ranks, strict=True):
                assert expected.peak_bytes is not None, "no committed run has experts"
                yield layout.name, measured.rank, measured.peak_allocated_bytes, expected.peak_bytes


def table() -> str:
    """The errors of all committed runs, as Markdown."""
    rows = [
        f"| `{each.run}` | {each.layout} | {', '.join(map(str, each.ranks))} | {_gb(each.measured)} "
        f"| {_gb(each.predicted)} | {each.error:+.1%} |".replace("%", " %")
        for directory in directories()
        for each in predicted(directory)
    ]
    found = [abs(error) for directory in directories() for error in errors(directory)]
    summary = f"Over all {len(found)} ranks: mean {sum(found) / len(found):.1%}, worst {max(found):.1%}."
    head = "| run | layout | ranks | measured | predicted | error |\n|---|---|---|---|---|---|"
    return "\n".join([head, *rows, "", summary.replace("%", " %")])


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.{2 if num_bytes >= 1e9 else 3}f} GB"


def document(text: str) -> str:
    """The page about meters with today's table in its place."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{table()}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Make everything anew."""
    # Only here, as tests of the table need no browser.
    from tests.browser import screenshots

    for directory in directories():
        write_report(directory, read_run(directory))
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder))
        for directory in directories():
            history.add(directory)
        page = render_trend(history.nights(), Expectations())
    write_atomically(REPORTS / "trend.html", page.encode("ascii", "xmlcharrefreplace"))
    write_atomically(METERS, document(METERS.read_text(encoding="utf-8")).encode())
    screenshots.main()


if __name__ == "__main__":
    main()
