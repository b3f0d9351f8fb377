"""Cost of uneven samples for a layout, from their imbalance and the time of encoders.

The table of samples in page and summary.
"""

from __future__ import annotations

from mimo_bench.record import LayoutRecord, RunRecord
from mimo_bench.report import words

HEADS = (
    "layout",
    "busiest replica over the mean",
    "uneven replicas cost a step at most",
    "samples/s per loader worker",
    "stalled by the loader",
)
"""Of the table of samples."""


def skew_seconds(layout: LayoutRecord, module: str) -> float | None:
    """At most so much does a step lose to uneven replicas: the encoder's time on its slowest rank x (imbalance - 1).

    Forward and backward. A bound: what other work hides costs nothing, and twice the items need at most twice the time.
    Micro-batches that differ among each other, for which a disjoint layout may wait, are not in it. None where the
    encoder was not timed.
    """
    more = layout.imbalance[module] - 1.0
    timed = layout.timing.modules.get(module) if layout.timing is not None else None
    if more <= 0.0:
        return 0.0
    if timed is None or timed.forward_seconds is None or timed.backward_seconds is None:
        return None
    return (timed.forward_seconds + timed.backward_seconds) * more


def busiest(layout: LayoutRecord) -> str:
    """Return the imbalance of the encoders' replicas: `vision 1.34 x`."""
    said = (f"{module} {words.ratio(found)}" for module, found in layout.imbalance.items())
    return ", ".join(said) or words.DASH


def cost(layout: LayoutRecord) -> str:
    """Return its cost for a step: `vision 17.1 ms, 9.0 %`."""
    found = {module: skew_seconds(layout, module) for module in layout.imbalance}
    if layout.timing is None or not found:
        return words.DASH
    if not any(value is None or value for value in found.values()):
        return "nothing"
    step = layout.timing.step_seconds_median
    return ", ".join(
        f"{module} {words.DASH}" if value is None else f"{module} {words.seconds(value)}, {words.percent(value / step)}"
        for module, value in found.items()
        if value is None or value
    )


def is_uneven(record: RunRecord) -> bool:
    """Return True if replicas of any encoder differ in items in any layout."""
    return any(found > 1.0 for layout in record.layouts for found in layout.imbalance.values())


def note(record: RunRecord) -> str:
    """Return the meaning of the columns of the table of samples, and the cost of padding."""
    meaning = (
        "How uneven the items of encoder replicas are, by how much a step is at most longer for it, and what making "
        "samples costs where the loader runs during training; judged times have none of the latter."
    )
    return f"{meaning} {_padding(record)}".strip()


def _padding(record: RunRecord) -> str:
    """Return the cost of uneven lengths: the padding, equal in every layout; empty if nothing was timed."""
    tokens = max(
        (layout.timing.tokens_per_step for layout in record.layouts if layout.timing is not None), default=None
    )
    if tokens is None:
        return ""
    share = 1.0 - tokens / (record.scenario["global_batch_size"] * record.scenario["seq_length"])
    return f"Texts are padded to the same length in every layout: {words.percent(share)} of all positions are padding."
