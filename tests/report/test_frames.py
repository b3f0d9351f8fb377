"""Runs as tables and as JUnit: what programs of other people read."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from shutil import copytree
from xml.etree import ElementTree

import pytest

import mimo_bench
from mimo_bench.record import DeviceState, Energy, Loading, OptimizerDifferences, ParameterDifference, RankEnergy
from mimo_bench.record.files import series_path, write_rank, write_run
from mimo_bench.report import render_junit
from mimo_bench.report.frames import COLUMNS
from mimo_bench.util.errors import RecordError
from tests.support import golden, synthetic

REPOSITORY = Path(__file__).parents[2]


def test_every_table_has_the_documented_columns_and_no_other() -> None:
    run = mimo_bench.load_run(golden.GOLDEN)
    tables = {name: getattr(run, name) for name in run.__slots__ if name != "record"}
    assert {name: list(table.columns) for name, table in tables.items()} == {
        name: list(columns) for name, columns in COLUMNS.items()
    }


def test_tables_are_tidy_and_hold_the_record_s_own_numbers() -> None:
    run = mimo_bench.load_run(golden.GOLDEN)
    assert run.layouts.set_index("layout").step_seconds_median.to_dict() == pytest.approx(
        {golden.BASELINE: 0.205, golden.DISJOINT: 0.145, golden.WRONG: math.nan, golden.CRASHED: math.nan}, nan_ok=True
    )
    vision = run.modules.query("module == 'vision'").set_index("layout")
    assert vision.loc[golden.DISJOINT, "dp"] == 2
    losses = run.steps.query(f"layout == '{golden.BASELINE}' and mode == 'parity' and rank == 0").loss
    assert tuple(losses) == golden.LOSSES
    assert run.launches.groupby("layout").size()[golden.BASELINE] == 2
    assert len(run.communication) == len(run.ranks) == 0


def test_tables_hold_where_every_ranks_time_memory_and_energy_went(tmp_path: Path) -> None:
    record = synthetic.run(num_layouts=1, num_ranks=2)
    memory = record.layouts[0].memory
    assert memory is not None
    cool = DeviceState(temperature_celsius=30)
    devices = tuple(
        RankEnergy(device_uuid=rank.device_uuid, window_seconds=20.0, joules=7000.0, before=cool, after=cool)
        for rank in memory.ranks
    )
    known = {
        "energy": Energy(joules_per_step=700.0, average_watts=350.0, devices=devices),
        "loading": Loading(num_workers=2, samples_per_second_per_worker=90.0, stall_share=0.25),
    }
    layout = record.layouts[0].model_copy(update=known)
    write_run(tmp_path, record.model_copy(update={"layouts": (layout,)}))
    run = mimo_bench.load_run(tmp_path)
    assert run.ranks["rank"].tolist() == [0, 1]
    parts = ["parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "workspace_bytes"]
    assert run.ranks[parts].sum(axis=1).tolist() == pytest.approx(run.ranks.peak_allocated_bytes.tolist(), rel=0.02)
    spent = ["compute_seconds", "exposed_communication_seconds", "idle_seconds"]
    assert run.ranks[spent].sum(axis=1).tolist() == pytest.approx(run.ranks.step_seconds.tolist(), rel=0.01)
    assert run.ranks.joules.tolist() == [7000.0, 7000.0]
    columns = ["joules_per_step", "average_watts", "loader_stall_share", "loader_samples_per_second_per_worker"]
    assert run.layouts[columns].to_numpy().tolist() == [[700.0, 350.0, 0.25, 90.0]]


def test_gradients_come_from_what_the_ranks_left(tmp_path: Path) -> None:
    copytree(golden.GOLDEN, tmp_path / "run")
    (rank, *_) = golden.ranks(golden.DISJOINT)
    difference = ParameterDifference(
        parameter="vision.projector.weight",
        module="vision",
        norm=0.5,
        baseline_norm=1.0,
        error_norm=0.5,
        scale=0.5,
        unscaled_error_norm=0.0,
    )
    path = tmp_path / "run" / "layouts" / golden.DISJOINT / "parity" / "rank0.json"
    moved = OptimizerDifferences(first_moments=(), second_moments=(difference,), updates=(difference,))
    write_rank(path, rank.model_copy(update={"gradients": (difference,), "optimizer": moved}))
    run = mimo_bench.load_run(tmp_path / "run")
    (row,) = run.gradients.to_dict("records")
    assert (row["layout"], row["parameter"], row["scale"]) == (golden.DISJOINT, "vision.projector.weight", 0.5)
    assert run.optimizer.set_index("of").scale.to_dict() == {"second_moments": 0.5, "updates": 0.5}


def test_a_directory_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"run\.json: no such file"):
        mimo_bench.load_run(tmp_path)


def test_a_damaged_series_of_steps_is_refused_by_name(tmp_path: Path) -> None:
    copytree(golden.GOLDEN, tmp_path / "run")
    series_path(tmp_path / "run", golden.DISJOINT).write_text("loss 10.9\n")
    with pytest.raises(RecordError, match=rf"{golden.DISJOINT}/steps\.parquet: no whole Parquet file: .*; restore"):
        mimo_bench.load_run(tmp_path / "run")


def test_importing_the_package_and_naming_load_run_costs_no_pandas() -> None:
    program = "import sys, mimo_bench; mimo_bench.load_run; sys.exit('pandas' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


def test_junit_has_a_case_for_each_layout_and_tells_failures_from_errors() -> None:
    suite = ElementTree.fromstring(render_junit(golden.record()))[0]
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "0",
    }
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases == {golden.BASELINE: [], golden.DISJOINT: [], golden.WRONG: ["failure"], golden.CRASHED: ["error"]}


def test_junit_holds_any_reason_and_stays_xml() -> None:
    reason = "\x1b[31m<b>&\x00]]> \ud800 caf\xe9\nsecond line"
    layouts = tuple(each.model_copy(update={"reason": reason}) for each in golden.record().layouts)
    suite = ElementTree.fromstring(render_junit(golden.record().model_copy(update={"layouts": layouts})))[0]
    assert suite[2][0].text == "[31m<b>&]]>  caf\xe9\nsecond line"
    assert suite[2][0].get("message") == "parity failed: [31m<b>&]]>  caf\xe9"
