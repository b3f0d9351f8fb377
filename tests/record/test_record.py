"""Records in and out of files, and every contradiction that `validate` must see."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.predict import items_by_step, predict_communication
from mimo_bench.predict.validate import contradictions, validate
from mimo_bench.record import RunRecord
from mimo_bench.record.files import layout_path, read_rank, read_run, series_path, write_layout, write_rank, write_run
from mimo_bench.record.series import read_series, steps_table
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.util.errors import RecordError
from mimo_bench.util.files import write_atomically
from tests.support import golden, synthetic

REPOSITORY = Path(__file__).parents[2]

Content = dict[str, Any]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the golden record that a test may spoil."""
    return shutil.copytree(golden.GOLDEN, tmp_path / "run")


def change(directory: Path, edit: Callable[[Content], None]) -> None:
    """Edit run.json in place."""
    path = directory / "run.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def assign(*keys: str | int, value: Any) -> Callable[[Content], None]:
    """An edit that puts `value` where `keys` lead."""

    def edit(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit


# Files


def test_the_committed_golden_record_is_what_its_builder_makes(tmp_path: Path) -> None:
    golden.write(tmp_path)
    # Values, not bytes: a field that is added with a default leaves an old record what it was, and Parquet files name
    # the library version that wrote them.
    assert read_run(golden.GOLDEN) == read_run(tmp_path)
    for name in golden.LOSS_DRIFT:
        assert read_series(golden.GOLDEN, name).equals(read_series(tmp_path, name))


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_run(tmp_path, golden.record())
    assert read_run(tmp_path) == golden.record()


def test_a_record_is_written_in_parts_and_reads_as_if_at_once(tmp_path: Path) -> None:
    record = golden.record().model_copy(update={"question": 'two\n  "layouts": []\nlines'})
    text = write_run(tmp_path, record).read_text(encoding="utf-8")
    assert text == record.model_dump_json(indent=2) + "\n"
    assert read_run(tmp_path) == record


def test_a_large_record_is_written_and_read_without_its_text_at_once(tmp_path: Path) -> None:
    record = synthetic.run(num_layouts=300, num_ranks=64)
    tracemalloc.start()
    try:
        size = write_run(tmp_path, record).stat().st_size
        kept, peak = tracemalloc.get_traced_memory()
        assert size > 20e6
        assert peak - kept < size / 10
        again = read_run(tmp_path)
        kept, peak = tracemalloc.get_traced_memory()
        assert peak - kept < size / 2
    finally:
        tracemalloc.stop()
    assert again == record


def test_entries_written_since_the_record_count_until_it_is_written_again(tmp_path: Path) -> None:
    whole = golden.record()
    bare = [layout.model_copy(update={"status": "not_run", "losses": ()}) for layout in whole.layouts]
    running = whole.model_copy(update={"finished_at": None, "layouts": tuple(bare)})
    write_run(tmp_path, running)
    before = (tmp_path / "run.json").stat().st_mtime_ns
    write_layout(tmp_path, whole.layouts[1])
    assert read_run(tmp_path).layouts == (bare[0], whole.layouts[1], *bare[2:])
    assert (tmp_path / "run.json").stat().st_mtime_ns == before
    # As a kill between writing run.json and removing the entries leaves it.
    left = layout_path(tmp_path, whole.layouts[1].name).read_bytes()
    write_run(tmp_path, whole)
    assert not list(tmp_path.glob("layouts/*/layout.json"))
    write_atomically(layout_path(tmp_path, whole.layouts[0].name), left)
    assert read_run(tmp_path) == whole


def test_a_broken_entry_is_refused_with_its_path(tmp_path: Path) -> None:
    record = golden.record().model_copy(update={"finished_at": None})
    write_run(tmp_path, record)
    write_atomically(layout_path(tmp_path, golden.WRONG), b'{"name": 1}')
    with pytest.raises(RecordError, match=rf"{golden.WRONG}/layout\.json: name: 1: input should be a valid string"):
        read_run(tmp_path)


@pytest.mark.parametrize("indent", [None, 0, 1, 2, 3, 4])
def test_a_record_reads_the_same_in_any_lines(tmp_path: Path, indent: int | None) -> None:
    content = golden.record().model_dump(mode="json")
    (tmp_path / "run.json").write_text(json.dumps(content, indent=indent), encoding="utf-8")
    assert read_run(tmp_path) == golden.record()
    # Lines that look like those of layouts, and belong to the scenario.
    content["scenario"] = {"layouts": [content["layouts"][0]]}
    inner = json.dumps(content.pop("scenario"), indent=2)
    text = f'{{"scenario": {inner},\n' + json.dumps(content, indent=indent).removeprefix("{")
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    read = read_run(tmp_path)
    assert read.layouts == golden.record().layouts
    assert json.dumps(read.scenario, indent=2) == inner


def test_floats_keep_every_bit(tmp_path: Path) -> None:
    awkward = (0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0)
    rank = golden.ranks(golden.WRONG)[0].model_copy(update={"losses": awkward})
    path = write_rank(tmp_path / "rank0.json", rank)
    assert [loss.hex() for loss in read_rank(path).losses if loss is not None] == [loss.hex() for loss in awkward]


def test_a_nan_is_never_written_and_the_old_file_survives(tmp_path: Path) -> None:
    write_run(tmp_path, golden.record())
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_run(tmp_path, golden.record().model_copy(update={"overhead": {"timing": float("nan")}}))
    assert (tmp_path / "run.json").read_bytes() == before


def test_fields_of_a_later_writer_are_passed_over(directory: Path) -> None:
    change(directory, assign("something_new", value=1))
    assert read_run(directory) == golden.record()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds list where an object is expected"),
        ('{"schema_version": 1, "overhead": {"timing": NaN}}', "holds NaN, which is not JSON"),
        ("{}", "schema_version is missing"),
        (
            '{"schema_version": 2, "layouts": "other"}',
            "schema_version = 2 is unknown; .* reads schema_version 1",
        ),
        ('{"schema_version": "1"}', 'schema_version = "1" is unknown'),
        ('{"schema_version": true}', "schema_version = true is unknown"),
        ('{"layouts": [{"name": 1}], "schema_version": 2}', "schema_version = 2 is unknown"),
        ('{"schema_version": 1}', "question: is missing"),
        ('{"schema_version": 1, "question": ""}', "layouts: is missing"),
        ('{"schema_version": 1, "layouts": "other"}', 'layouts: "other": input should be a valid array'),
        ('{"schema_version": 1, "layouts": [], "layouts": []}', "layouts: is there twice; the file was edited"),
    ],
)
def test_a_broken_run_file_is_refused_with_its_path(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RecordError, match=rf"(?m)^.*run\.json: .*{complaint}"):
        read_run(tmp_path)


def test_a_missing_run_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"run\.json: no such file; give the directory that `mimo-bench run` wrote"):
        read_run(tmp_path)


def test_a_run_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="cannot be read"):
        read_run(tmp_path)


def test_an_invalid_field_is_named_with_its_value(directory: Path) -> None:
    change(directory, assign("layouts", 1, "status", value="splendid"))
    with pytest.raises(RecordError, match=r'run\.json: layouts\.1\.status: "splendid": input should be'):
        read_run(directory)


def test_everything_invalid_is_named_in_and_around_layouts(directory: Path) -> None:
    change(directory, assign("environment", "num_cpus", value="8"))
    change(directory, assign("layouts", 1, "losses", value=["5.5", 1.0]))
    change(directory, assign("layouts", 2, value=3))
    change(directory, lambda run: run["layouts"][3].pop("reason"))
    with pytest.raises(RecordError) as refused:
        read_run(directory)
    path = directory / "run.json"
    assert [line.partition(": input")[0] for line in str(refused.value).splitlines()] == [
        f'{path}: environment.num_cpus: "8"',
        f'{path}: layouts.1.losses.0: "5.5"',
        f"{path}: layouts.2: 3",
        f"{path}: layouts.3.reason: is missing; the record was edited or its writer has a bug, run again",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"rank": 0', "not valid JSON: Expecting ',' delimiter: line 1"),
        ('{"rank": 0, "losses": [NaN]}', "holds NaN, which is not JSON"),
        ('{"rank": 0}', "mode: is missing"),
        ('{"rank": 0, "host": "NaN"}', "mode: is missing"),
        ("[]", "holds list where an object is expected"),
    ],
)
def test_a_broken_rank_file_is_refused_with_its_path(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "rank0.json").write_text(text)
    with pytest.raises(RecordError, match=rf"rank0\.json: {complaint}"):
        read_rank(tmp_path / "rank0.json")


def test_a_missing_rank_file_points_at_the_log(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"rank0\.json: no such file; .* log next to it"):
        read_rank(tmp_path / "rank0.json")


def test_ranks_import_the_record_without_tables_or_torch() -> None:
    program = (
        "import sys; import mimo_bench.record.files, mimo_bench.predict.identities;"
        "print({'pandas', 'pyarrow', 'torch', 'megatron'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


# Series


def test_a_step_series_has_a_row_for_every_mode_rank_and_step() -> None:
    rows = steps_table(golden.ranks(golden.BASELINE)).to_pylist()
    expected = [("parity", rank, step) for rank in range(2) for step in range(3)]
    expected += [("timing", rank, step) for rank in range(2) for step in range(5)]
    assert [(row["mode"], row["rank"], row["step"]) for row in rows] == expected


def test_only_the_steps_of_the_timed_window_carry_a_time() -> None:
    rows = steps_table(golden.ranks(golden.BASELINE)).to_pylist()
    seconds = [row["step_seconds"] for row in rows if (row["mode"], row["rank"]) == ("timing", 1)]
    assert seconds == [None, 0.25, 0.21, 0.19, 0.2]


def test_a_step_series_holds_losses_and_norms_bit_for_bit() -> None:
    rows = steps_table(golden.ranks(golden.WRONG)).to_pylist()[:3]
    assert tuple(row["loss"] for row in rows) == golden.ranks(golden.WRONG)[0].losses
    assert [row["grad_norm_vision"] for row in rows] == [0.25, 0.234375, 0.21875]
    assert [row["grad_norm_language"] for row in rows] == [2.0, 1.875, 1.75]


# Identities


def test_the_golden_record_is_free_of_contradictions(directory: Path) -> None:
    validate(directory)


CONTRADICTIONS: dict[str, tuple[Callable[[Content], None], str]] = {
    "scenario": (assign("scenario", "global_batch_size", value=0), "scenario: is not a valid scenario"),
    "scenario that no integer fits": (assign("scenario", "model", value="gpt"), "scenario: is not a valid scenario"),
    "scenario hash": (assign("scenario", "seed", value=7), "scenario_hash = "),
    "question": (assign("question", value="Why?"), r"question = 'Why\?', but the scenario asks"),
    "baseline": (assign("baseline", value=golden.DISJOINT), "baseline = 'vision-dp2--language-tp2', but"),
    "time runs backwards": (assign("finished_at", value="2025-11-03T01:00:00Z"), "finished_at = .* is before"),
    "duplicate name": (
        assign("layouts", 3, "name", value=golden.WRONG),
        "vision-dp1--language-dp2' is used 2",
    ),
    "baseline left out": (lambda run: run["layouts"].pop(0), "baseline 'colocated-dp2' is missing"),
    "second baseline": (assign("layouts", 1, "parity", "verdict", value="baseline"), "parity.verdict is baseline, but"),
    "self-judged": (assign("layouts", 0, "parity", "verdict", value="passed"), "it cannot judge itself"),
    "ranked twice": (
        assign("ranking", 1, "name", value=golden.BASELINE),
        "ranking: holds 'colocated-dp2' 2 times",
    ),
    "ranked though failed": (assign("ranking", 1, "name", value=golden.WRONG), "whose status is parity_failed"),
    "ranked though unknown": (assign("ranking", 1, "name", value="nowhere"), "whose status is null"),
    "ranked for no reason": (assign("ranking", 1, "reason", value=" "), "has no reason"),
    "unknown layout": (assign("layouts", 3, "name", value="nowhere"), "is no layout of the scenario"),
    "too few ranks": (assign("layouts", 1, "modules", "vision", "ranks", value=[0]), "holds 1 ranks, but .* is 2"),
    "gap": (assign("layouts", 1, "world_size", value=5), r"ranks \[0, 1, 2, 3\], which do not tile world_size = 5"),
    "placement": (assign("layouts", 1, "placement", value="colocated"), "placement is colocated, but .* disjoint"),
    "other grid": (assign("layouts", 1, "modules", "language", "tp", value=1), "modules.language is not the grid"),
    "passed though failed": (assign("layouts", 2, "status", value="passed"), "status is passed, but .* failed"),
    "failed though passed": (assign("layouts", 1, "status", value="parity_failed"), "status is parity_failed, but"),
    "unjudged though judged": (assign("layouts", 1, "status", value="unjudged"), "status is unjudged, but .* passed"),
    "passed without verdict": (assign("layouts", 1, "parity", value=None), "status is passed, but .* null"),
    "no reason": (assign("layouts", 3, "reason", value=""), "reason is empty; status crashed needs one"),
    "no parity reason": (assign("layouts", 1, "parity", "reason", value=""), "parity.reason is empty"),
    "ran though not run": (assign("layouts", 2, "status", value="not_run"), "there are losses, timing or launches"),
    "too few losses": (assign("layouts", 1, "losses", value=[5.5]), "losses holds 1 steps, but .* 3 parity steps"),
    "too few norms": (assign("layouts", 2, "grad_norms", "vision", value=[]), "grad_norms.vision holds 0 steps"),
    "divergence of a passed layout": (
        assign("layouts", 1, "parity", "first_divergence_step", value=1),
        "first_divergence_step = 1, but the verdict is passed",
    ),
    "divergence beyond the end": (
        assign("layouts", 2, "parity", "first_divergence_step", value=3),
        "first_divergence_step = 3, but losses holds 3",
    ),
    "divergence unnamed": (
        assign("layouts", 2, "parity", "first_divergence_step", value=None),
        "loss_rel_max = 0.002 > 1e-06 is out of tolerance, but first_divergence_step is null",
    ),
    "weights differ": (assign("layouts", 1, "parity", "weights_match_at_start", value=False), "weights_match_at_start"),
    "samples differ": (assign("layouts", 1, "parity", "samples_match", value=False), "samples_match is false"),
    "timed without proof": (assign("layouts", 1, "parity", "as_timed", value=None), "but parity.as_timed is null"),
    "failed as timed": (
        assign("layouts", 1, "parity", "as_timed", "verdict", value="failed"),
        "as_timed.verdict is failed, but the parity verdict is passed",
    ),
    "no reason as timed": (assign("layouts", 1, "parity", "as_timed", "reason", value=""), "as_timed.reason is empty"),
    "out of the band": (
        assign("layouts", 1, "parity", "as_timed", "loss_rel_max", value=0.5),
        "as_timed.loss_rel_max = 0.5 > 1e-06 is out of the band, but the verdict is passed",
    ),
    "more memory to compare than it takes": (
        assign("layouts", 1, "comparing", value={"extra_bytes": 2**31, "largest_tensor_bytes": 2**29}),
        "comparing.extra_bytes = 2147483648, but two tensors of 536870912 bytes and chunks take 14931722",
    ),
    "step lost": (lambda run: run["layouts"][1]["timing"]["step_seconds"].pop(), "holds 3 steps, but .* times 4"),
    "no time": (assign("layouts", 1, "timing", "step_seconds", value=[0, 0, 0, 0]), "adds up to no time"),
    "launch of another mode": (assign("modes", value=["parity"]), "a timing launch, but the run's modes are parity"),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_contradiction_is_named(directory: Path, what: str) -> None:
    edit, complaint = CONTRADICTIONS[what]
    change(directory, edit)
    with pytest.raises(RecordError, match=complaint):
        validate(directory)


@pytest.mark.parametrize(
    "field",
    [
        "step_seconds_median",
        "step_seconds_iqr",
        "tokens_per_second",
        "tokens_per_second_per_gpu",
        "samples_per_second",
        "model_tflops_per_gpu",
    ],
)
def test_a_number_that_its_own_series_does_not_give_is_named(directory: Path, field: str) -> None:
    flops = {"model_flops_per_step": 3e12, "model_tflops_per_gpu": 3.0 * 4 / 0.6 / 4}
    change(directory, lambda run: run["layouts"][1]["timing"].update(flops))
    validate(directory)

    def off_by_a_millionth(run: Content) -> None:
        run["layouts"][1]["timing"][field] *= 1.000001

    change(directory, off_by_a_millionth)
    with pytest.raises(RecordError, match=rf"'vision-dp2--language-tp2': timing\.{field} = .*, but the step series"):
        validate(directory)


def test_calls_and_bytes_that_shapes_do_not_give_are_named(directory: Path) -> None:
    scenario = Scenario.model_validate(golden.SCENARIO)
    predicted = predict_communication(scenario, golden.DISJOINT, items=items_by_step(scenario))
    rows = [
        {
            "role": row.role,
            "collective": row.collective,
            "group_size": 2,
            "calls_per_step": row.num_calls,
            "bytes_per_step": row.num_bytes,
        }
        for row in predicted.rows
    ]
    change(directory, assign("layouts", 1, "communication", value=rows))
    validate(directory)
    bridge = next(index for index, row in enumerate(rows) if row["collective"] == "broadcast")
    change(directory, assign("layouts", 1, "communication", bridge, "bytes_per_step", value=7))
    with pytest.raises(RecordError, match=r"language broadcast: 8 calls and 7 bytes a step, but shapes give 8 and \d+"):
        validate(directory)
    change(directory, lambda run: run["layouts"][1]["communication"].pop(bridge))
    with pytest.raises(RecordError, match="language broadcast: 0 calls and 0 bytes a step, but shapes give 8"):
        validate(directory)
    # A group that no layer of the model talks over.
    change(directory, lambda run: run["layouts"][1]["communication"].append(rows[bridge] | {"role": "group 7"}))
    with pytest.raises(RecordError, match=r"group 7 broadcast: 8 calls and .* but shapes give 0 and 0"):
        validate(directory)


def test_a_missing_series_is_named(directory: Path) -> None:
    series_path(directory, golden.WRONG).unlink()
    with pytest.raises(RecordError, match=rf"'{golden.WRONG}': .* its series .*steps\.parquet is missing"):
        validate(directory)


@pytest.mark.parametrize("damage", ["text", "footer", "page"])
def test_a_damaged_series_is_named(directory: Path, damage: str) -> None:
    path = series_path(directory, golden.WRONG)
    whole = path.read_bytes()
    spoiled = {"text": b"loss 10.9\n", "footer": whole[:-40], "page": whole[:4] + bytes(200) + whole[204:]}
    path.write_bytes(spoiled[damage])
    with pytest.raises(RecordError, match=rf"'{golden.WRONG}': .*steps\.parquet: no whole Parquet file: .*run again"):
        validate(directory)


def test_every_contradiction_is_listed(directory: Path) -> None:
    change(directory, assign("layouts", 0, "reason", value=""))
    change(directory, assign("question", value="Why?"))
    with pytest.raises(RecordError, match="2 in all") as caught:
        validate(directory)
    assert len(str(caught.value).splitlines()) == 3


def test_a_run_of_some_layouts_without_the_baseline_is_no_contradiction() -> None:
    layout = golden.record().layouts[1]
    update = {"status": "unjudged", "reason": "the baseline was not asked for", "parity": None}
    alone = golden.record().model_copy(update={"layouts": (layout.model_copy(update=update),), "ranking": ()})
    assert list(contradictions(RunRecord.model_validate(alone.model_dump()))) == []


def test_a_timed_layout_beside_a_baseline_that_was_not_timed_may_stay_unjudged(directory: Path) -> None:
    change(directory, assign("layouts", 1, "status", value="unjudged"))
    change(directory, assign("layouts", 1, "parity", "as_timed", value=None))
    change(directory, lambda run: run["ranking"].pop(1))
    validate(directory)


def test_a_modules_memory_is_that_of_its_worst_rank(directory: Path) -> None:
    def rank(number: int, peak: int) -> Content:
        peaks = {"peak_allocated_bytes": peak, "peak_reserved_bytes": 2 * peak, "device_used_bytes": 3 * peak}
        return {"rank": number, "modules": ["vision"], "device_uuid": f"GPU-{number}", **peaks}

    worst = {"peak_allocated_bytes": 7, "peak_reserved_bytes": 14}
    memory = {"modules": {"vision": worst}, "ranks": [rank(0, 5), rank(1, 7)]}
    change(directory, assign("layouts", 1, "memory", value=memory))
    validate(directory)
    change(directory, assign("layouts", 1, "memory", "modules", "vision", "peak_reserved_bytes", value=10))
    with pytest.raises(RecordError, match=r"vision.peak_reserved_bytes = 10, but its worst rank has 14"):
        validate(directory)


def test_the_hash_is_the_one_that_a_scenario_gives_itself() -> None:
    today = golden.scenario()
    update = {"scenario": today.model_dump(mode="json"), "scenario_hash": today.content_hash}
    assert list(contradictions(golden.record().model_copy(update=update))) == []


def test_a_record_of_a_model_of_ones_own_is_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    config = Path(__file__).parents[1] / "configs" / "clip_llama.json"
    text = (REPOSITORY / "scenarios" / "cpu_smoke.toml").read_text(encoding="utf-8")
    path.write_text(text.replace('"llava-tiny"', json.dumps(str(config))), encoding="utf-8")
    own = load_scenario(path)
    update = {
        "scenario": own.model_dump(mode="json"),
        "scenario_hash": own.content_hash,
        "question": own.question,
        "baseline": own.baseline,
        "layouts": (),
        "ranking": (),
    }
    assert list(contradictions(golden.record().model_copy(update=update))) == []
    # Older records hashed the path, too.
    content = json.dumps(update["scenario"], sort_keys=True, separators=(",", ":"))
    update["scenario_hash"] = hashlib.sha256(content.encode()).hexdigest()
    assert update["scenario_hash"] != own.content_hash
    assert list(contradictions(golden.record().model_copy(update=update))) == []
