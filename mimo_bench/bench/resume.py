"""Results that an earlier invocation of the same matrix left in the directory, and which of them are kept.

A layout with a verdict keeps it. One without is run again from its first step: it was under way, was never reached,
or ended without a record. The baseline's gradients do not outlive an invocation, so while anything is left to do the
baseline is trained again, and what was kept stays only if that training is the same as the one it was compared with. In
timing mode alone the record has no losses that could show this: each layout stays compared with the earlier baseline.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mimo_bench.bench.request import RunRequest
from mimo_bench.meters import hash_of_code, read_environment
from mimo_bench.record import PLANTED, RUN_FILE, LayoutRecord, Mode, Resumption, RunRecord, differences, read_run
from mimo_bench.scenario import Scenario, hash_of_content, without_places
from mimo_bench.util import UsageError, are_named, first_difference, locked, relative


def read_earlier(request: RunRequest) -> RunRecord | None:
    """Return the record to resume; None if `request` does not resume, or an earlier invocation left no record.

    Raises:
        RecordError: it cannot be read.
        UsageError: it is of another experiment; the message names what differs, with both values and the remedy.
    """
    directory = request.directory
    if not (request.resume and (directory / RUN_FILE).exists()):
        return None
    record = read_run(directory)
    if (parted := _scenarios_part(record, request.scenario)) is not None:
        raise UsageError(_refusal(directory, *parted))
    names = [layout.name for layout in record.layouts]
    pairs: dict[str, tuple[object, object]] = {
        "code_hash": (record.code_hash, hash_of_code()),
        "modes": (",".join(record.modes), ",".join(request.modes)),
    }
    if not set(names) <= set(request.names):
        pairs["layouts"] = (", ".join(names), ", ".join(request.names))
    for name, (earlier, now) in pairs.items():
        if earlier != now:
            raise UsageError(_refusal(directory, name, earlier, now))
    if (problem := _planted_otherwise(_planted(record.tainted), _planted(request.tainted))) is not None:
        raise UsageError(f"--resume: {directory / RUN_FILE}: {problem}, or name a new directory")
    for name, earlier, now in differences(record.environment, read_environment(request.device_kind)):
        raise UsageError(_refusal(directory, f"environment.{name}", earlier, now))
    return record


def _planted(tainted: str | None) -> str | None:
    """Return the planted fault; a disturbance from outside may be over, and does not part two invocations."""
    return tainted.removesuffix(PLANTED).strip() if tainted is not None and tainted.endswith(PLANTED) else None


def _planted_otherwise(earlier: str | None, now: str | None) -> str | None:
    """Return how the planted faults of two invocations differ, and what to do; None if neither had one."""
    if earlier == now:
        return None
    asked = "no --plant was given" if now is None else f"--plant {now} was given"
    if earlier is None:
        return f"was run with no fault planted, and now {asked}; leave it out"
    return f"was run with --plant {earlier}, and now {asked}; give --plant {earlier} again"


def _scenarios_part(record: RunRecord, scenario: Scenario) -> tuple[str, str, str] | None:
    """Return the first key in which a scenario differs from the record's, and both values in words; None if none does.

    The question and layouts that only one of them has are not compared.
    """
    now = scenario.model_dump(mode="json")
    common = {layout.name for layout in record.layouts} & set(scenario.names)

    def kept(content: Mapping[str, Any]) -> dict[str, Any]:
        layouts = {table["name"]: table for table in content["layout"] if table["name"] in common}
        return {**without_places(content), "question": None, "layout": layouts}

    if (found := first_difference(kept(record.scenario), kept(now))) is not None:
        return f"scenario.{found.key}", _in_words(found.before), _in_words(found.now)
    if record.scenario_hash != hash_of_content(record.scenario):
        # The scenario was edited in the record.
        return "scenario_hash", record.scenario_hash, scenario.content_hash
    return None


def _in_words(value: object) -> str:
    """A scenario's value as a message says it; of tables, their names."""
    if value is None:
        return "not given"
    if are_named(value):
        return ", ".join(str(each["name"]) for each in value)
    return json.dumps(value)


def _refusal(directory: Path, name: str, earlier: object, now: object) -> str:
    return (
        f"--resume: {directory / RUN_FILE}: {name} is {earlier}, and now it is {now}; one record holds one experiment: "
        f"put back what was changed, or name a new directory"
    )


def resumed(fresh: RunRecord, earlier: RunRecord) -> RunRecord:
    """The record that a resuming invocation begins with: what is settled stays, everything else is still to come."""
    before = {layout.name: layout for layout in earlier.layouts}
    settled = [name for name, layout in before.items() if is_settled(layout, earlier.modes)]
    is_held = "parity" in earlier.modes or "timing" in earlier.modes
    if is_held and len(settled) < len(fresh.layouts):
        has_reference = _is_reference(before[earlier.baseline], earlier.modes)
        settled = [name for name in settled if name != earlier.baseline and has_reference]
    resumption = Resumption(
        resumed_at=fresh.started_at,
        command=fresh.command,
        kept=tuple(settled),
        reason=_why(settled, earlier.modes, num_layouts=len(fresh.layouts))
        if settled
        else "nothing: no layout had a verdict that could stay",
    )
    # Of a baseline that is trained again, the results stay until then: a later resumption is compared with them too.
    known = {*settled, earlier.baseline}
    return fresh.model_copy(
        update={
            "started_at": earlier.started_at,
            "command": earlier.command,
            "resumptions": (*earlier.resumptions, resumption),
            "layouts": tuple(before[entry.name] if entry.name in known else entry for entry in fresh.layouts),
        }
    )


def _is_reference(baseline: LayoutRecord, modes: tuple[Mode, ...]) -> bool:
    """Return True if the layouts of an earlier invocation were compared with its baseline."""
    if "parity" in modes:
        # Without the baseline's own losses nothing would show that it trains as it did.
        return bool(baseline.losses)
    return baseline.parity is not None and baseline.parity.as_timed is not None


def _why(settled: list[str], modes: tuple[Mode, ...], *, num_layouts: int) -> str:
    if len(settled) == num_layouts:
        return "every layout had its verdict"
    if "timing" in modes and "parity" not in modes:
        return "these were compared with the baseline as it was timed then; it is timed again for the others"
    if "parity" not in modes:
        return "these had been measured"
    return "these had their verdicts, and the baseline, trained again for the others, is the same within the tolerance"


def is_settled(layout: LayoutRecord, modes: tuple[Mode, ...]) -> bool:
    """Return True if the layout has a verdict, or was measured in modes that give none."""
    return layout.status in ("passed", "parity_failed") or (layout.status == "unjudged" and "parity" not in modes)


def same_training(again: LayoutRecord, before: LayoutRecord) -> bool:
    """Return True if the baseline trained again is within tolerance the one that kept layouts were compared with."""
    tolerance = before.parity.tolerance if before.parity else None
    if tolerance is None or len(again.losses) != len(before.losses):
        return False
    pairs = [
        (again.losses, before.losses, tolerance.loss_rel),
        *((again.grad_norms.get(m, ()), norms, tolerance.grad_norm_rel) for m, norms in before.grad_norms.items()),
    ]
    return all(_agree(now, then, bound) for now, then, bound in pairs)


def _agree(now: tuple[float | None, ...], then: tuple[float | None, ...], bound: float) -> bool:
    found = [relative(value, base) for value, base in zip(now, then, strict=False)]
    return len(now) == len(then) and all(rel is not None and rel <= bound for rel in found)


@contextmanager
def sole_writer(directory: Path) -> Iterator[None]:
    """Hold the lock on `directory`, which is made if it is missing.

    Raises:
        UsageError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(directory))
        except TimeoutError:
            raise UsageError(f"--out: another mimo-bench is running into {directory}; wait for it, or end it") from None
        yield
