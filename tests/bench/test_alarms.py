"""What a number of clean runs says about the rate of false alarms, and how their differences are drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_bench.bench.gate.campaign import Campaign
from mimo_bench.bench.gate.false_alarms import ALARMS, count_alarms, read_account, upper_bound
from mimo_bench.record.gate import Alarms, CleanRun
from mimo_bench.report.gate import plot_alarms
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.util.errors import UsageError

REPOSITORY = Path(__file__).parents[2]
COMMITTED = REPOSITORY / "reports" / "alarms" / "cpu_smoke"


def test_no_alarm_in_n_runs_bounds_the_rate_by_what_would_stay_silent_once_in_twenty() -> None:
    # (1 - p) ** n = 0.05
    for num_runs in (1, 60, 420):
        assert (1.0 - upper_bound(0, num_runs)) ** num_runs == pytest.approx(0.05)


def test_one_alarm_in_ten_runs_bounds_the_rate_by_what_gives_one_or_none_once_in_twenty() -> None:
    rate = upper_bound(1, 10)
    assert (1.0 - rate) ** 10 + 10.0 * rate * (1.0 - rate) ** 9 == pytest.approx(0.05)
    assert upper_bound(10, 10) == 1.0


def test_every_difference_is_a_dot_and_the_bound_a_line() -> None:
    drawing = plot_alarms({"loss": [0.01, 0.02, 0.0], "update": [0.1]})
    assert drawing.count("<circle") == 4
    assert drawing.count('class="bound"') == 1
    assert drawing.startswith("<svg")
    assert drawing.endswith("</svg>\n")


def test_the_committed_account_can_be_gone_on_with() -> None:
    known = read_account(COMMITTED, load_scenario(REPOSITORY / "scenarios" / "cpu_smoke.toml"), as_timed=False)
    assert known is not None
    assert known.num_runs == sum(run.layout != "colocated-1-rank" for run in known.runs) >= 420


def test_an_account_of_other_layouts_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the scenario has no layout 'colocated-1-rank'"):
        read_account(COMMITTED, load_scenario(REPOSITORY / "scenarios" / "siglip_qwen2.toml"), as_timed=False)
    assert read_account(tmp_path, ONE_RANK, as_timed=False) is None
    (tmp_path / "alarms.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match=r"--resume: .*alarms\.json: not a valid alarms"):
        read_account(tmp_path, ONE_RANK, as_timed=False)


def test_an_account_of_what_was_not_judged_as_timed_is_not_gone_on_with_as_timed() -> None:
    with pytest.raises(UsageError, match=r"its layouts were not judged as timed: no --as-timed, or another --out"):
        read_account(COMMITTED, load_scenario(REPOSITORY / "scenarios" / "cpu_smoke.toml"), as_timed=True)


ONE_RANK = Scenario.model_validate(
    {
        "question": "Does an account go on?",
        "model": "llava-tiny",
        "global_batch_size": 4,
        "global_micro_batch_size": 2,
        "seq_length": 32,
        "baseline": "one-rank",
        "steps": {"parity": 2},
        "evaluation": {"num_batches": 0},
        "layout": [{"name": "one-rank", "vision": {}, "language": {}}],
    }
)


@pytest.mark.usefixtures("warm_commands")
def test_only_seeds_that_were_not_judged_are_and_the_account_says_what_it_went_on_from(tmp_path: Path) -> None:
    committed = Alarms.model_validate_json((COMMITTED / "alarms.json").read_text(encoding="utf-8"))
    failed = CleanRun(
        seed=0, layout="one-rank", is_baseline=True, status="parity_failed", reason="not finite", shares={}
    )
    known = committed.model_copy(update={"runs": (failed,), "num_runs": 0, "num_alarms": 0})
    judged: list[CleanRun] = []
    campaign = Campaign(directory=tmp_path, device_kind="cpu", command=("mimo-bench", "alarms", "--resume"))
    count_alarms(campaign, ONE_RANK, range(2), on_run=judged.append, known=known)
    assert [(run.seed, run.status) for run in judged] == [(1, "passed")]
    account = read_account(tmp_path, ONE_RANK, as_timed=False)
    assert account is not None
    # An unfit baseline of the earlier sitting stays one.
    assert (account.num_runs, account.num_baselines, account.num_unfit, account.runs[0]) == (0, 2, 1, failed)
    assert [sitting.command for sitting in account.earlier] == [committed.command]
    assert account.command == ("mimo-bench", "alarms", "--resume")
    text = (tmp_path / "alarms.md").read_text(encoding="utf-8")
    assert f"Begun by `{' '.join(committed.command)}` (code {committed.code_hash[:8]}" in text
    assert "Resumed by `mimo-bench alarms --resume`" in text


@pytest.mark.usefixtures("warm_commands")
def test_a_seed_whose_baseline_proves_nothing_is_accounted_for_and_is_no_alarm(tmp_path: Path) -> None:
    scenario = Scenario.model_validate(
        {
            **ONE_RANK.model_dump(by_alias=True),
            "training": {"learning_rate": 1e-30},
            "layout": [{"name": "one-rank", "vision": {}, "language": {}}, SHARDS],
        }
    )
    campaign = Campaign(directory=tmp_path, device_kind="cpu")
    found = count_alarms(campaign, scenario, range(2), on_run=lambda _: None)
    assert (found.num_runs, found.num_alarms, found.num_baselines, found.num_unfit) == (0, 0, 2, 2)
    assert [(run.layout, run.status) for run in found.runs] == [("one-rank", "parity_failed")] * 2
    assert "its updates of vision are 0" in found.runs[0].reason
    assert "2 of 2 baselines proved nothing with their seed" in (tmp_path / "alarms.md").read_text()
    again: list[CleanRun] = []
    account = read_account(tmp_path, scenario, as_timed=False)
    count_alarms(campaign, scenario, range(2), on_run=again.append, known=account)
    assert again == []


SHARDS = {"name": "shards", "vision": {"tp": 2}, "language": {"tp": 2}}


@pytest.mark.usefixtures("warm_commands")
def test_layouts_that_are_judged_as_timed_have_shares_of_that_band(tmp_path: Path) -> None:
    scenario = Scenario.model_validate(
        {
            **ONE_RANK.model_dump(by_alias=True),
            "precision": "bf16",
            "steps": {"parity": 2, "warmup": 1, "timed": 2},
            "layout": [
                {"name": "one-rank", "vision": {}, "language": {}},
                SHARDS,
            ],
        }
    )
    campaign = Campaign(directory=tmp_path, device_kind="cpu")
    found = count_alarms(campaign, scenario, range(1), on_run=lambda _: None, as_timed=True)
    baseline, shards = found.runs
    assert (baseline.shares, shards.status) == ({}, "passed")
    assert 0.0 < shards.shares["loss, as timed"] < 1.0
    assert 0.0 < shards.shares["norm, as timed"] < 1.0
    assert "; as timed, 3 steps are within the noise band, 84 of 84 gradients and " in shards.reason
    assert (found.num_runs, found.as_timed) == (1, True)
    text = (tmp_path / "alarms.md").read_text(encoding="utf-8")
    assert "Judged in parity mode, and as timed, on CPU ranks." in text
    assert read_account(tmp_path, scenario, as_timed=True) == found


@pytest.mark.usefixtures("warm_commands")
def test_a_campaign_that_is_stopped_leaves_every_trial_so_far(tmp_path: Path) -> None:
    def stop(run: CleanRun) -> None:
        if run.layout == "one-rank":
            raise KeyboardInterrupt

    two = Scenario.model_validate(
        {**ONE_RANK.model_dump(by_alias=True), "layout": [*ONE_RANK.model_dump(by_alias=True)["layout"], SHARDS]}
    )
    with pytest.raises(KeyboardInterrupt):
        count_alarms(Campaign(directory=tmp_path, device_kind="cpu"), two, range(1), on_run=stop)
    account = read_account(tmp_path, two, as_timed=False)
    assert account is not None
    assert [run.layout for run in account.runs] == ["one-rank"]


@pytest.mark.parametrize("name", ["cpu_smoke", "bf16", "bf16_cpu"])
def test_committed_accounts_are_rendered_as_they_would_be_today(tmp_path: Path, name: str) -> None:
    known = Alarms.model_validate_json((COMMITTED.parent / name / "alarms.json").read_text(encoding="utf-8"))
    ALARMS.write(tmp_path, known)
    for file in ("alarms.md", "alarms.svg"):
        assert (tmp_path / file).read_text() == (COMMITTED.parent / name / file).read_text()
