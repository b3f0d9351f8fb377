"""What `mimo-bench check` says of a scenario's samples, where there is something to mind: counts, repeats, overlaps.

Nothing is read here, and most scenarios have no notes.
"""

from __future__ import annotations

from collections.abc import Iterator

from mimo_bench.data import HELD_OUT, Contents, HuggingFaceData
from mimo_bench.scenario import Scenario
from mimo_bench.util import counted


def notes(scenario: Scenario) -> Iterator[str]:
    """A line each: what memory is predicted for, held-out samples that count twice, and those that are trained on."""
    data = scenario.data
    if isinstance(data, HuggingFaceData):
        yield _fullest(data)
    yield from _repeated(scenario)
    if isinstance(data, HuggingFaceData) and data.contents is not None:
        yield from _overlaps(data, data.contents)


def _fullest(data: HuggingFaceData) -> str:
    if data.contents is None or (most := data.contents.most_images) is None:
        why = "is read by ranks alone" if data.contents is None else f"has unlike things in {data.images!r}"
        return (
            f"how many images a sample has is not known, as {data.path!r} {why}; memory is predicted for one image a "
            "sample: more of them need more"
        )
    samples, images = counted(data.contents.num_samples["train"], "sample"), counted(most, "image")
    return f"train has {samples} of up to {images}; memory is predicted as if each had as many"


def _repeated(scenario: Scenario) -> Iterator[str]:
    """Where the evaluation takes more samples than there are: whatever it finds, some of them count more than once."""
    num_batches = scenario.evaluation.num_batches
    num_taken = num_batches * scenario.global_batch_size
    num_samples = scenario.data.num_samples("validation")
    if num_samples is not None and num_taken > num_samples:
        times = "twice" if num_taken == 2 * num_samples else f"{num_taken / num_samples:.3g} times"
        yield (
            f"validation has {counted(num_samples, 'sample')} and is gone through {times}: evaluation.num_batches = "
            f"{num_batches} takes {num_taken}"
        )


def _overlaps(data: HuggingFaceData, contents: Contents) -> Iterator[str]:
    for split in HELD_OUT:
        if num_shared := contents.num_trained_on.get(split):
            yield (
                f"warning: data.{split} = {getattr(data, split)!r} shares {counted(num_shared, 'sample')} with "
                f"data.train = {data.train!r}, so held-out samples are trained on; part them, as train[:90%] and "
                "train[90%:] do"
            )
