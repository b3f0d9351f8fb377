"""What `mimo-bench check` prints of communication: what all ranks put into each collective in a step, largest first.

[scenario -> layout -> prediction] -> trainer -> ...: integers and text only.
"""

from __future__ import annotations

from collections.abc import Iterator

from mimo_bench.memory_table import size
from mimo_bench.prediction import CommunicationPrediction, predict_communication
from mimo_bench.scenario import Scenario


def describe_communication(scenario: Scenario, name: str) -> Iterator[str]:
    """The communication of the layout called `name` as lines of text; none for a single rank.

    Args:
        scenario: holds the layout.
        name: of the layout.
    """
    predicted = predict_communication(scenario, name)
    rows = sorted(
        # What comes was sent, and stands there.
        (row for row in predicted.rows if row.collective != "recv"),
        key=lambda row: row.num_bytes,
        reverse=True,
    )
    if rows:
        yield from _aligned(
            [
                ["group", "collective", "calls", "bytes a step, all ranks"],
                *([row.role, row.collective, str(row.num_calls), size(row.num_bytes)] for row in rows),
            ]
        )
    yield from _left_out(predicted)


def _left_out(predicted: CommunicationPrediction) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for role, reason in predicted.left_out.items():
        reasons.setdefault(reason, []).append(role)
    for reason, roles in reasons.items():
        yield f"  not predicted, as {reason}: {', '.join(roles)}"


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for group, collective, calls, amount in rows:
        words = f"{group.ljust(widths[0])}  {collective.ljust(widths[1])}"
        yield f"  {words}  {calls.rjust(widths[2])}  {amount.rjust(widths[3])}"
