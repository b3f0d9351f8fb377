"""Starting weights and samples of a rank as hashes, before the first step; and the variant with jittered weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from mimo_bench.layout import LANGUAGE
from mimo_bench.models import CHUNK, digest, uniform
from mimo_bench.parity.fingerprints import BatchCount, Fingerprint, Mismatch, RankFingerprint, SampleSeen, merge
from mimo_bench.parity.probes.tensors import hashes
from mimo_bench.trainer import MicroBatch, Trainer, shards

TARGETS = f"{LANGUAGE}.targets"


def fingerprint(trainer: Trainer, batches: Sequence[Sequence[MicroBatch]]) -> Fingerprint | Mismatch:
    """Return the fingerprint of the whole job, the same on every rank. Collective over the world.

    Args:
        trainer: the trainer before its first step.
        batches: the micro-batches that it will train on, by step.
    """
    mine = RankFingerprint(weights=_weights(trainer), samples=tuple(_samples(batches)), counts=tuple(_counts(batches)))
    everyone: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(everyone, mine.model_dump_json())
    return merge(RankFingerprint.model_validate_json(text) for text in everyone)


@torch.no_grad()
def _weights(trainer: Trainer) -> dict[str, str]:
    # Gathered before hashing: the fingerprint must not rest on the arithmetic that drew the shards.
    found = {}
    for shard in shards(trainer.model, trainer.topology):
        whole = shard.gather(shard.parameter)
        if hashes(shard):
            found[shard.name] = digest(whole)
    return found


def _samples(batches: Sequence[Sequence[MicroBatch]]) -> Iterator[SampleSeen]:
    for step, batch in enumerate(batches):
        for index, micro_batch in enumerate(batch):
            for side, sample_id, tensor in _sides(micro_batch):
                yield SampleSeen(
                    step=step,
                    micro_batch=index,
                    side=side,
                    sample_id=sample_id,
                    digest=digest(tensor),
                    scored=_scored(tensor) if side == TARGETS else None,
                )


def _counts(batches: Sequence[Sequence[MicroBatch]]) -> Iterator[BatchCount]:
    for step, batch in enumerate(batches):
        for index, part in enumerate(batch):
            by_module = {
                module: {f"items of {module}": sum(part.items_per_sample[module])} for module in part.encoder_inputs
            }
            if part.loss_mask is not None:
                by_module[LANGUAGE] = {
                    "answer tokens": int(part.loss_mask.sum()),
                    "tokens": part.num_tokens,
                    "token pairs": part.num_token_pairs,
                }
            for module, counts in by_module.items():
                first = part.sample_ids[module].start
                yield BatchCount(step=step, micro_batch=index, module=module, first_sample=first, counts=counts)


def _scored(targets: torch.Tensor) -> tuple[int, int]:
    places = targets.ge(0).nonzero().flatten()
    return (int(places[0]), len(places)) if len(places) else (-1, 0)


def _sides(batch: MicroBatch) -> Iterator[tuple[str, int, torch.Tensor]]:
    """Yield each part of each sample that this rank feeds: its name, the sample's id, its content."""
    for module, inputs in batch.encoder_inputs.items():
        counts = batch.items_per_sample[module]
        # A blank item, which the rank encodes if no sample has one, belongs to no sample.
        by_sample = inputs[: sum(counts)].split(counts)
        for sample_id, items in zip(batch.sample_ids[module], by_sample, strict=True):
            yield f"{module}.inputs", sample_id, items
    if batch.input_ids is not None:
        assert batch.labels is not None
        assert batch.loss_mask is not None
        for row, sample_id in enumerate(batch.sample_ids[LANGUAGE]):
            yield f"{LANGUAGE}.inputs", sample_id, batch.input_ids[row]
            targets = torch.where(batch.loss_mask[row] > 0, batch.labels[row], -1)
            yield TARGETS, sample_id, targets


@torch.no_grad()
def jitter_weights(trainer: Trainer) -> None:
    """Move every weight up or down by one unit in the last place of its precision, before the first step.

    The difference that training makes of it is the effect of rounding alone. The direction of a weight depends on its
    position in the canonical tensor only, so it is the same in every layout.
    """
    for shard in shards(trainer.model, trainer.topology):
        step = torch.finfo(shard.parameter.dtype).eps
        for part, positions in zip(shard.parameter.view(-1).split(CHUNK), shard.positions(), strict=True):
            signs = uniform(f"jitter/{shard.name}", positions).sub_(0.5).sign_()
            part.copy_(part.float() * (1 + step * signs))
    # Master weights were copied before.
    trainer.optimizer.reload_model_params()
