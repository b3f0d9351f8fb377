"""Fingerprints: hashes of starting weights and samples, which must agree before the first step.

`probes.fingerprint` takes them on ranks. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

FINGERPRINT = "fingerprint.json"
"""File of the baseline's fingerprint."""


class SampleSeen(BaseModel):
    """One sample as one rank will feed it."""

    model_config = ConfigDict(frozen=True)

    step: int
    micro_batch: int
    side: str
    """Module and part of the sample: `vision.inputs`, `language.inputs` or `language.targets`."""
    sample_id: int
    digest: str
    scored: tuple[int, int] | None = None
    """First position that the loss scores and the number of such positions; of `language.targets` only."""


class BatchCount(BaseModel):
    """Numbers of one micro-batch of a replica of one module, by its loader."""

    model_config = ConfigDict(frozen=True)

    step: int
    micro_batch: int
    module: str
    first_sample: int
    counts: dict[str, int]
    """By the thing that is counted."""


class RankFingerprint(BaseModel):
    """Fingerprint of one rank."""

    model_config = ConfigDict(frozen=True)

    weights: dict[str, str]
    """Digest of the full tensor of each canonical parameter that this rank hashes."""
    samples: tuple[SampleSeen, ...]
    counts: tuple[BatchCount, ...] = ()


class Fingerprint(BaseModel):
    """Fingerprint of the whole job."""

    model_config = ConfigDict(frozen=True)

    weights: dict[str, str]
    samples: dict[str, str]
    """Digest by `step/side/sample id`."""
    scored: dict[str, tuple[int, int]] = {}
    """First scored position and the number of such positions, by the same keys."""
    counts: dict[str, tuple[int, ...]] = {}
    """Numbers of each step over the whole job by the loaders, by the thing that is counted."""

    def other_count(self, found: Mapping[str, Sequence[int]]) -> str | None:
        """Return the first number of a step that is not the loaders', as text."""
        for what, expected in self.counts.items():
            for step, (reported, count) in enumerate(zip(found[what], expected, strict=False)):
                if reported != count:
                    return f"step {step} reports {reported} {what}, and loaders read {count}"
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """Difference before the first step, because of which a layout cannot train the same model."""

    weights_match: bool
    samples_match: bool
    reason: str


def merge(ranks: Iterable[RankFingerprint]) -> Fingerprint | Mismatch:
    """Merge the fingerprints of all ranks, or name a contradiction between them.

    Replicas must hold equal weights, and in every micro-batch all modules must read the same samples.
    """
    parts = list(ranks)
    if (parameter := disagreement(part.weights for part in parts)) is not None:
        reason = f"replicas of {parameter} start from different weights"
        return Mismatch(weights_match=False, samples_match=True, reason=reason)
    weights = {name: digest for part in parts for name, digest in part.weights.items()}
    samples: dict[str, str] = {}
    readers: dict[str, int] = {}
    ids: dict[tuple[int, int], dict[str, set[int]]] = {}
    for rank, seen in ((rank, sample) for rank, part in enumerate(parts) for sample in part.samples):
        reader = readers.setdefault(_key(seen), rank)
        if samples.setdefault(_key(seen), seen.digest) != seen.digest:
            return _samples_differ(
                f"ranks {reader} and {rank} read other {seen.side} of sample {seen.sample_id} in step {seen.step}"
            )
        ids.setdefault((seen.step, seen.micro_batch), {}).setdefault(seen.side, set()).add(seen.sample_id)
    for (step, micro_batch), by_side in sorted(ids.items()):
        (first, expected), *others = sorted(by_side.items())
        for side, found in others:
            if found != expected:
                return _samples_differ(
                    f"step {step}, micro-batch {micro_batch}: {side} reads samples {_some(found - expected)} "
                    f"and {first} reads {_some(expected - found)}"
                )
    scored = {_key(seen): seen.scored for part in parts for seen in part.samples if seen.scored is not None}
    return Fingerprint(weights=weights, samples=samples, scored=scored, counts=_totals(parts))


def _totals(parts: Iterable[RankFingerprint]) -> dict[str, tuple[int, ...]]:
    """Return numbers by step over the job; what ranks of a replica read together counts once."""
    once = {(one.step, one.micro_batch, one.module, one.first_sample): one for part in parts for one in part.counts}
    num_steps = 1 + max((one.step for one in once.values()), default=-1)
    totals: dict[str, list[int]] = {}
    for one in once.values():
        for what, count in one.counts.items():
            totals.setdefault(what, [0] * num_steps)[one.step] += count
    return {what: tuple(counts) for what, counts in totals.items()}


def disagreement(ranks: Iterable[Mapping[str, str]]) -> str | None:
    """Return the first parameter that two ranks hold with different digests; None if all copies agree."""
    known: dict[str, str] = {}
    for held in ranks:
        for name, digest in held.items():
            if known.setdefault(name, digest) != digest:
                return name
    return None


def compare_fingerprints(found: Fingerprint, baseline: Fingerprint) -> Mismatch | None:
    """Compare a layout's fingerprint with the baseline's; None if they agree."""
    weights = _difference(found.weights, baseline.weights)
    samples = sorted(map(_place, _difference(found.samples, baseline.samples)))
    if not weights and not samples:
        return None
    reasons = []
    if weights:
        reasons.append(f"{len(weights)} parameters start from other weights than the baseline's, first {weights[0]}")
    if samples:
        step, sample_id, side = samples[0]
        reasons.append(
            f"{len(samples)} samples differ from the baseline's, first sample {sample_id} of step {step} ({side})"
            + _as_shift(found.scored, baseline.scored)
        )
    return Mismatch(weights_match=not weights, samples_match=not samples, reason="; ".join(reasons))


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return the keys that only one side has or whose values differ, sorted."""
    return sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))


def _place(key: str) -> tuple[int, int, str]:
    """Return step, sample id and side of a key of `Fingerprint.samples`; they sort as numbers."""
    step, side, sample_id = key.split("/")
    return int(step), int(sample_id), side


def _key(seen: SampleSeen) -> str:
    return f"{seen.step}/{seen.side}/{seen.sample_id}"


def _as_shift(found: Mapping[str, tuple[int, int]], expected: Mapping[str, tuple[int, int]]) -> str:
    """Describe the shift of the scored positions if it is the only change, equal in all samples."""
    both = found.keys() & expected.keys()
    shifts = {found[key][0] - expected[key][0] for key in both}
    if len(shifts) != 1 or shifts == {0} or any(found[key][1] != expected[key][1] for key in both):
        return ""
    return f": the loss mask is shifted by {shifts.pop():+d} in every sample"


def _samples_differ(reason: str) -> Mismatch:
    return Mismatch(weights_match=True, samples_match=False, reason=reason)


def _some(ids: set[int]) -> str:
    shown = ", ".join(map(str, sorted(ids)[:4])) or "none more"
    return f"{shown}, ..." if len(ids) > 4 else shown
