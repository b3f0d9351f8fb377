"""What is measured beside a run goes into its record, is compared by hand-worked numbers, and survives rendering."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest

from mimo_bench.bench.ledger import add_to_record, check_record
from mimo_bench.cli import app as cli
from mimo_bench.meters.environment import read_environment
from mimo_bench.record import Communication, Comparison, HistoryComparison, LinkSpeed
from mimo_bench.record.files import read_run, write_run
from mimo_bench.report import HTML_FILE, MARKDOWN_FILE
from mimo_bench.report.links import share_of_links
from mimo_bench.scenario.load import load_scenario
from mimo_bench.util.errors import UsageError
from tests.support import golden, synthetic

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def link(collective: str, num_ranks: int, num_bytes: int, bus: float) -> LinkSpeed:
    return LinkSpeed(
        collective=collective, num_ranks=num_ranks, num_bytes=num_bytes, seconds=1e-3, bus_bytes_per_second=bus
    )


LINKS = (link("all_reduce", 2, 100, 10.0), link("all_reduce", 2, 10_000, 1000.0), link("send", 2, 100, 50.0))


def row(collective: str, *, num_bytes: float, bus: float | None, ranks: int = 2, calls: float = 4.0) -> Communication:
    return Communication(
        role="language.tp",
        collective=collective,
        group_size=ranks,
        calls_per_step=calls,
        bytes_per_step=calls * num_bytes,
        bus_bytes_per_second=bus,
    )


@pytest.mark.parametrize(
    ("communication", "share"),
    [
        (row("all_reduce", num_bytes=100, bus=5.0), 0.5),
        # Halfway between 1e2 and 1e4 on a logarithmic scale lies 1e3, and between 10 and 1000 lies 100.
        (row("all_reduce", num_bytes=1000, bus=25.0), 0.25),
        (row("all_reduce", num_bytes=1e9, bus=500.0), 0.5),
        (row("all_reduce", num_bytes=1, bus=1.0), 0.1),
        (row("recv", num_bytes=100, bus=25.0), 0.5),
        # Between two ranks, of a group of five.
        (row("send", num_bytes=100, bus=25.0, ranks=5), 0.5),
        (row("all_reduce", num_bytes=100, bus=5.0, ranks=4), None),
        (row("broadcast", num_bytes=100, bus=5.0), None),
        (row("all_reduce", num_bytes=100, bus=None), None),
        (row("all_reduce", num_bytes=0, bus=5.0), None),
        (row("all_reduce", num_bytes=100, bus=5.0, calls=0.0), None),
    ],
)
def test_a_share_is_of_the_same_collective_ranks_and_message_size(
    communication: Communication, share: float | None
) -> None:
    assert share_of_links(communication, [communication], LINKS) == pytest.approx(share)


def test_a_batchs_share_is_at_the_size_of_the_messages_that_its_role_sent() -> None:
    links = (link("send", 2, 100, 10.0), link("send", 2, 10_000, 1000.0))
    batch = row("coalesced", num_bytes=0, bus=25.0, ranks=3)
    others = row("send", num_bytes=100, bus=None).model_copy(update={"role": "bridge.audio->language"})
    rows = (others, batch, row("send", num_bytes=1000, bus=None), row("recv", num_bytes=10, bus=None))
    assert share_of_links(batch, rows, links) == pytest.approx(0.25)
    assert share_of_links(batch, (others, batch), links) is None


def test_what_goes_between_hosts_is_no_share_of_the_links_of_one() -> None:
    across = row("all_reduce", num_bytes=100, bus=5.0).model_copy(update={"spans_hosts": True})
    assert share_of_links(across, [across], LINKS) is None


def test_links_and_overhead_come_onto_the_page_of_a_run(tmp_path: Path) -> None:
    record = synthetic.run(num_layouts=1, num_ranks=2)
    first = record.layouts[0].communication[0]
    ranked = record.layouts[0].model_copy(update={"communication": (first.model_copy(update={"group_size": 2}),)})
    write_run(tmp_path, record.model_copy(update={"layouts": (ranked,)}))
    add_to_record(tmp_path, links=(link("all_reduce", 2, 1 << 30, 400e9),), overhead={"timing": 0.004})
    assert read_run(tmp_path).overhead == {"timing": 0.004}
    page = (tmp_path / HTML_FILE).read_text(encoding="ascii")
    # 200 of 400 GB/s.
    assert "of link" in page
    assert ">50.0 %<" in page
    assert "timing 0.4 %" in page


def test_another_machine_or_scenario_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copytree(golden.GOLDEN, tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    scenario = str(SCENARIOS / "cpu_smoke.toml")
    for command in (["linkspeed"], ["overhead", scenario]):
        assert cli.main([*command, "--device", "cpu", "--record", str(tmp_path / "run")]) == 2
        assert "run.json: environment is" in capsys.readouterr().err
    here = golden.record().model_copy(update={"environment": read_environment("cpu")})
    write_run(tmp_path / "here", here)
    assert check_record(tmp_path / "here", device_kind="cpu") == here
    with pytest.raises(UsageError, match=r"run\.json: scenario_hash is .*, and here it is"):
        check_record(tmp_path / "here", device_kind="cpu", scenario=load_scenario(SCENARIOS / "cpu_smoke.toml"))
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_rendering_again_keeps_what_changed_since_earlier_runs(tmp_path: Path) -> None:
    slower = Comparison(
        layout=golden.BASELINE, quantity="step_seconds", verdict="regressed", reason="205 ms -> 251 ms", value=0.251
    )
    held = HistoryComparison(directory="history", num_runs=5, since="2026-11-21 02:00 UTC", held=(slower,))
    write_run(tmp_path, golden.record().model_copy(update={"history": held}))
    assert cli.main(["report", str(tmp_path)]) == 0
    for name in (HTML_FILE, MARKDOWN_FILE):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert "Since 2026-11-21 02:00 UTC" in page
        assert "step time 205 ms" in page
