"""Notes of `mimo-bench check` on samples: counts, repeats, overlaps, and the first of own files as ranks read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mimo_bench.data import HELD_OUT, Contents, HuggingFaceData, Split, SyntheticData
from mimo_bench.scenario import Scenario
from mimo_bench.util import counted

if TYPE_CHECKING:
    from mimo_bench.data import Preview


def notes(scenario: Scenario) -> Iterator[str]:
    """Yield a line for each thing to mind: predicted memory, samples that count twice, modules without any."""
    data = scenario.data
    if isinstance(data, HuggingFaceData):
        yield _fullest(data)
    yield from _repeated(scenario)
    yield from _untrainable(scenario)
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
    """Yield a line if the evaluation takes more samples than there are, so that some count more than once."""
    num_batches = scenario.evaluation.num_batches
    num_taken = num_batches * scenario.global_batch_size
    num_samples = scenario.data.num_samples("validation")
    if num_samples is not None and num_taken > num_samples:
        times = "twice" if num_taken == 2 * num_samples else f"{num_taken / num_samples:.3g} times"
        yield (
            f"validation has {counted(num_samples, 'sample')} and is gone through {times}: evaluation.num_batches = "
            f"{num_batches} takes {num_taken}"
        )


def _untrainable(scenario: Scenario) -> Iterator[str]:
    """Encoders that are trained and never read an item."""
    data = scenario.data
    for module in scenario.shape.encoders:
        is_text = isinstance(data, SyntheticData) and data.share_without(module) == 1.0
        if (is_text or data.most_items(module) == 0) and not scenario.training.is_frozen(module):
            yield (
                f"warning: no sample has an item for {module}, which gets no gradient, so every layout fails parity; "
                f'add it to training.freeze, as in freeze = ["{module}"]'
            )


def _overlaps(data: HuggingFaceData, contents: Contents) -> Iterator[str]:
    for split in HELD_OUT:
        if num_shared := contents.num_trained_on.get(split):
            yield (
                f"warning: data.{split} = {getattr(data, split)!r} shares {counted(num_shared, 'sample')} with "
                f"data.train = {data.train!r}, so held-out samples are trained on; part them, as train[:90%] and "
                "train[90%:] do"
            )


MAX_READ = 32
"""Samples of a split that `check` reads at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleNotes:
    """Findings about samples that were read."""

    lines: tuple[str, ...]
    problems: tuple[str, ...]
    """Samples that end every run before it takes two steps."""


def read_samples(scenario: Scenario) -> SampleNotes:
    """Read the first samples of a user's own files as ranks do; nothing of other samples, or of names on the hub.

    Raises:
        ScenarioError: the processor cannot be read, or does not belong to the model.
    """
    data = scenario.data
    if not isinstance(data, HuggingFaceData) or data.contents is None:
        return SampleNotes(lines=(), problems=())
    # Imported here: it brings torch and transformers, which takes seconds.
    from mimo_bench.data import preview

    # No run takes fewer than two steps.
    batches: dict[Split, int] = {"train": 2, "validation": scenario.evaluation.num_batches, "test": 0}
    found = preview(
        data,
        shape=scenario.shape,
        seq_length=scenario.seq_length,
        seed=scenario.seed,
        num_samples={
            split: min(MAX_READ, batches[split] * scenario.global_batch_size) for split in data.contents.num_samples
        },
    )
    bad = tuple(reason for reasons in found.bad.values() for reason in reasons)
    none_good = any(len(found.bad[split]) == data.contents.num_samples[split] for split in found.num_read)
    ends_runs = data.on_bad_sample == "stop" or none_good
    return SampleNotes(lines=tuple(_shown(found, () if ends_runs else bad)), problems=bad if ends_runs else ())


def _shown(found: Preview, left_out: tuple[str, ...]) -> Iterator[str]:
    read = ", ".join(f"{count} of {split}" for split, count in found.num_read.items())
    yield f"samples as ranks read them, {read}; scored tokens are in brackets"
    yield from (f"  {sample}" for sample in found.samples)
    if found.unread:
        yield f"  columns that nothing reads: {', '.join(found.unread)}"
    yield from (f"  left out: {reason}" for reason in left_out)
    if found.writes_date:
        yield "  the chat template writes the date, which is 26 July 2024 in every sample"
    if found.num_without_end:
        yield (
            f"  warning: the chat template writes nothing after the last answer of "
            f"{counted(found.num_without_end, 'sample')}, so no end is scored, and the model does not learn to stop; "
            "let it write the tokenizer's eos_token there"
        )
