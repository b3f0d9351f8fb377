"""Faults of counting and of the held-out evaluation: training is right, and what is said of it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mimo_bench.parity.faults.catalogue import fault
from mimo_bench.parity.faults.context import FaultContext, replace_attribute


@fault(caught_by="counts")
def tokens_counted_twice(context: FaultContext) -> None:
    """Each language position counts twice, so throughput doubles."""
    _change_sums(context, lambda sums: {"tokens": 2 * sums["tokens"]} if "tokens" in sums else {})


@fault(caught_by="counts")
def items_counted_twice(context: FaultContext) -> None:
    """Each item of an encoder counts twice."""
    _change_sums(context, lambda sums: {name: 2 * count for name, count in sums.items() if name.endswith(".items")})


@fault(caught_by="counts")
def token_pairs_counted_twice(context: FaultContext) -> None:
    """Each pair of positions counts twice, so attention seems to cost more than it does."""
    _change_sums(context, lambda sums: {"token_pairs": 2 * sums["token_pairs"]} if "token_pairs" in sums else {})


@fault(caught_by="evaluation", shows_in=lambda site: site.is_evaluated)
def every_held_out_answer_counted_right(context: FaultContext) -> None:
    """Accuracy is the share of scored answers, which is all of them."""
    _change_sums(context, lambda sums: {"correct_tokens": sums["scored_tokens"]} if "correct_tokens" in sums else {})


@fault(caught_by="evaluation", shows_in=lambda site: site.is_evaluated)
def held_out_loss_off_by_a_thousandth(context: FaultContext) -> None:
    """The held-out loss is a thousandth too large; the loss of training is right."""
    _change_sums(context, lambda sums: {"loss": sums["loss"] * 1.001} if "correct_tokens" in sums else {})


@fault(caught_by="evaluation", shows_in=lambda site: site.is_evaluated)
def evaluated_on_training_samples(context: FaultContext) -> None:
    """Held-out samples are those of training."""
    loader = type(context.trainer.loader)
    batch_of = loader.global_batch
    replace_attribute(context, loader, "global_batch", lambda own, _, step: batch_of(own, "train", step))


@fault(caught_by="evaluation", shows_in=lambda site: site.is_evaluated and site.plan.num_micro_batches > 1)
def last_micro_batch_not_evaluated(context: FaultContext) -> None:
    """Evaluation leaves out the last micro-batch of each global batch."""
    schedule = context.trainer.schedule

    def leave_out(batch: Sequence[Any], *, forward_only: bool) -> None:
        schedule(batch[:-1] if forward_only else batch, forward_only=forward_only)

    replace_attribute(context, context.trainer, "schedule", leave_out)


def _change_sums(context: FaultContext, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change what a micro-batch adds to the totals of its global batch."""
    totals = context.trainer.totals
    add = totals.add
    replace_attribute(context, totals, "add", lambda **sums: add(**{**sums, **changed(sums)}))
