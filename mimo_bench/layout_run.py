"""One layout from start to verdict: parity first, then, if it trains the same model, its timing.

scenario -> layout -> [trainer -> meters -> record -> parity] -> report
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mimo_bench.attempt import Attempt, Attempts
from mimo_bench.events import LayoutStarted, OnEvent
from mimo_bench.ledger import describe
from mimo_bench.parity.planting import Planting
from mimo_bench.parity.verdicts import Asked, judge, judge_baseline
from mimo_bench.record.merge import Trained, merge_timing, merge_training
from mimo_bench.record.schema import LayoutRecord, Mode, Parity, RankRecord, Status
from mimo_bench.scenario import Scenario


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What is known of a layout so far."""

    status: Status
    reason: str
    trained: Trained | None = None
    parity: Parity | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def ranks(self) -> tuple[RankRecord, ...]:
        """Every rank's record, of all modes that finished."""
        return tuple(rank for attempt in self.attempts for rank in attempt.ranks)

    @property
    def as_baseline(self) -> Trained | None:
        """The training that others can be held against; None unless it is a sound baseline's."""
        return self.trained if self.parity is not None and self.parity.verdict == "baseline" else None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutRunner:
    """Runs one layout after the other on the same warm launcher."""

    scenario: Scenario
    modes: tuple[Mode, ...]
    attempts: Attempts
    planting: Planting
    on_event: OnEvent

    def run(self, name: str, baseline: Trained | None) -> Account:
        """Judge and time the layout called `name`; a layout that trains another model is not worth timing."""
        account = Account(status="unjudged", reason="parity was not asked for")
        if "parity" in self.modes:
            account = self._judge(name, baseline)
        if "timing" in self.modes and account.status in ("passed", "unjudged"):
            account = self._time(name, account)
        return account

    def record(self, name: str, account: Account) -> LayoutRecord:
        """The layout's entry in the record."""
        known: dict[str, Any] = {
            "launches": tuple(attempt.launch for attempt in account.attempts if attempt.launch is not None)
        }
        if (trained := account.trained) is not None:
            compared = slice(self.scenario.steps.parity)
            known["losses"] = trained.losses[compared]
            known["grad_norms"] = {module: norms[compared] for module, norms in trained.grad_norms.items()}
            known["evaluation"] = trained.evaluation
            known["parity"] = account.parity
        if timed := [rank for rank in account.ranks if rank.mode == "timing"]:
            known["timing"] = merge_timing(
                timed, global_batch_size=self.scenario.global_batch_size, world_size=len(timed)
            )
        return describe(self.scenario, name, status=account.status, reason=account.reason, known=known)

    def _judge(self, name: str, baseline: Trained | None) -> Account:
        if baseline is None and not self._is_baseline(name):
            return Account(
                status="unjudged",
                reason=f"the baseline {self.scenario.baseline} gave nothing to be held against; see its reason",
            )
        attempt = self._attempt(name, "parity")
        if not attempt.finished:
            return _ended_early(attempt)
        steps, evaluation = self.scenario.steps, self.scenario.evaluation
        trained = merge_training(attempt.ranks, num_parity_steps=steps.parity)
        asked = Asked(num_steps=steps.parity, min_answer_accuracy=evaluation.min_answer_accuracy)
        parity = judge_baseline(trained, asked) if baseline is None else judge(trained, baseline, asked)
        return Account(
            status="parity_failed" if parity.verdict == "failed" else "passed",
            reason=parity.reason,
            trained=trained,
            parity=parity,
            attempts=(attempt,),
        )

    def _time(self, name: str, account: Account) -> Account:
        attempt = self._attempt(name, "timing")
        if attempt.finished:
            return replace(account, attempts=(*account.attempts, attempt))
        failed = _ended_early(attempt)
        return replace(account, status=failed.status, reason=f"while timed: {failed.reason}")

    def _attempt(self, name: str, mode: Mode) -> Attempt:
        self.on_event(LayoutStarted(name=name, mode=mode))
        fault = None if self._is_baseline(name) else self.planting.in_layout(name)
        return self.attempts.run(name, mode, fault=fault)

    def _is_baseline(self, name: str) -> bool:
        return name == self.scenario.baseline


def _ended_early(attempt: Attempt) -> Account:
    """A launch that left no record."""
    assert attempt.outcome.ended != "finished"
    return Account(status=attempt.outcome.ended, reason=attempt.outcome.reason)
