"""Entries for the tests of outcomes: save one as the baseline, and compare two others with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mimo_bench.parity.probes import fingerprint, outcome, tensors
from mimo_bench.parity.probes.outcome import OutcomeProbe
from mimo_bench.trainer.trainer import Trainer
from mimo_bench.trainer.weights import Shard, shards
from tests.ranks.live_bytes import LiveBytes
from tests.ranks.trainer_entries import build, leave


def hold_outcomes(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Be the baseline after two steps; then write the cost of a comparison with it, unchanged and a step later."""
    trainer = build(arguments)
    looked_at = list(_looked_at(trainer, arguments["parameters"]))
    with ExitStack() as undo:
        for module in (outcome, fingerprint):
            undo.enter_context(patch.object(module, "shards", lambda *_: looked_at))
        for name in ("trainer.weights", "models.kernels.rng", "parity.probes.tensors"):
            undo.enter_context(patch(f"mimo_bench.{name}.CHUNK", arguments["chunk"]))
        weights = list[int]()
        with _noting(fingerprint, "digest", lambda tensor: weights.append(tensor.nbytes)):
            fingerprint.fingerprint(trainer, [])
        for step in range(2):
            _train(trainer, step)
        _hold(trainer, arguments, is_baseline=True)
        found: dict[str, Any] = {"same": _hold(trainer, arguments)}
        _train(trainer, 2)
        with LiveBytes(arguments["limit"]) as live:
            found["other"] = _hold(trainer, arguments)
    found |= {"peak": live.peak, "weights_hashed": sum(weights)}
    found["updates"] = {one.name: (one.parameter - trainer.start(one)).flatten().tolist() for one in looked_at}
    leave(arguments, rank, found)


def _looked_at(trainer: Trainer, names: list[str]) -> Iterator[Shard]:
    return (shard for shard in shards(trainer.model, trainer.topology) if shard.name in names)


def _train(trainer: Trainer, step: int) -> None:
    trainer.train_step(trainer.loader.global_batch("train", step)).result()


def _hold(trainer: Trainer, arguments: Mapping[str, Any], *, is_baseline: bool = False) -> dict[str, Any]:
    """Return the probe's findings, and the bytes that it read, copied to the host and hashed."""
    read, copied, hashed = list[int](), list[int](), list[int]()
    probe = OutcomeProbe(Path(arguments["folder"]) / "outcome", is_baseline=is_baseline)
    with (
        _noting(tensors, "_read", lambda _, __, length, ___: read.append(4 * length)),
        _noting(tensors, "to_host", lambda tensor: copied.append(tensor.nbytes)),
        _noting(tensors, "digest", lambda tensor: hashed.append(tensor.nbytes)),
    ):
        probe.inspect(trainer)
    return {
        "read": sum(read),
        "copied": sum(copied),
        "hashed": sum(hashed),
        "differences": probe.differences.model_dump(mode="json") if probe.differences is not None else None,
    }


def _noting(module: Any, name: str, note: Callable[..., None]) -> Any:
    """A context in which calls of a function are noted, and made."""
    function = getattr(module, name)

    def call(*args: Any) -> Any:
        note(*args)
        return function(*args)

    return patch.object(module, name, call)
