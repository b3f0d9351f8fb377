"""Predicted memory, worked out by hand for a model of a few numbers, and held against peaks measured on GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mimo_bench.layout.grid import Grid
from mimo_bench.layout.layout import LANGUAGE
from mimo_bench.layout.settings import Settings
from mimo_bench.layout.tables import GridTable
from mimo_bench.models import PRESETS
from mimo_bench.models.parameters import stage_parameters
from mimo_bench.models.table import Parameter
from mimo_bench.parity.tolerance import rounded_variants
from mimo_bench.predict import MemoryPredictor, predict_memory
from mimo_bench.predict.memory import MATRIX_PRODUCTS_BYTES, num_in_flight
from mimo_bench.predict.state import state_bytes
from mimo_bench.report.check.memory import describe_memory, size
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from tests import committed
from tests.ranks.trainer_job import scenario
from tests.support import synthetic

REPOSITORY = Path(__file__).parents[2]
SHARDED = Settings(distributed_optimizer=True)

# 100 + 30 elements; the buffer holds the last one first.
WEIGHT = Parameter(name="weight", num_elements=100, num_dims=2)
BIAS = Parameter(name="bias", num_elements=30, num_dims=1)


def test_a_replica_keeps_weights_fp32_gradients_two_moments_and_a_master_copy() -> None:
    state = state_bytes([WEIGHT, BIAS], grid=Grid(dp=2), stage=0, dp_rank=1, settings=Settings(), precision="bf16")
    # 2 bytes a weight, 4 a gradient, 4 + 4 a moment, 4 a copy; the update takes roots of the larger group: 100 x 4.
    assert (state.parameters, state.gradients, state.optimizer, state.update) == (260, 520, 1560, 400)


def test_fp32_weights_are_their_own_master_copy() -> None:
    state = state_bytes([WEIGHT, BIAS], grid=Grid(), stage=0, dp_rank=0, settings=Settings(), precision="fp32")
    assert (state.parameters, state.gradients, state.optimizer) == (520, 520, 1040)


@pytest.mark.parametrize(
    ("dp_rank", "owned"),
    # The bias lies at 0-30, the weight at 64-164, the end is padded from 164 to 256 = lcm(2, 128): halves of 128.
    [(0, 30 + 64), (1, 36)],
)
def test_a_shard_holds_its_own_range_of_a_padded_buffer(dp_rank: int, owned: int) -> None:
    state = state_bytes([WEIGHT, BIAS], grid=Grid(dp=2), stage=0, dp_rank=dp_rank, settings=SHARDED, precision="bf16")
    assert (state.parameters, state.gradients, state.optimizer) == (256 * 2, 256 * 4, owned * 12)


def test_one_kernel_for_the_update_needs_no_copy() -> None:
    fused = Settings(fused_optimizer=True)
    assert state_bytes([WEIGHT], grid=Grid(), stage=0, dp_rank=0, settings=fused, precision="bf16").update == 0


def test_overlapped_reduction_splits_a_large_module_into_buckets_and_pads_each() -> None:
    large = [Parameter(name=f"{k}.weight", num_elements=40_000_001, num_dims=2) for k in range(2)]
    settings = Settings(distributed_optimizer=True, overlap_grad_reduce=True)
    state = state_bytes(large, grid=Grid(dp=3), stage=0, dp_rank=0, settings=settings, precision="fp32")
    # 40 000 001 up to a multiple of 384, twice.
    assert state.parameters == 2 * 40_000_128 * 4


def test_a_vocabulary_is_padded_and_a_tied_embedding_stands_on_both_ends() -> None:
    shape = PRESETS["siglip-qwen2-tiny"]
    first, last = (stage_parameters(shape, LANGUAGE, Grid(tp=2, pp=2), stage=stage) for stage in (0, 1))
    # 251 words on 2 ranks: 126 rows of 64.
    assert {one.name: one.num_elements for one in first if one.is_shared} == {
        "embedding.word_embeddings.weight": 126 * 64
    }
    assert {one.name: one.num_elements for one in last if one.is_shared} == {"output_layer.weight": 126 * 64}
    alone = stage_parameters(shape, LANGUAGE, Grid(), stage=0)
    assert "output_layer.weight" not in {one.name for one in alone}


def test_stages_hold_as_many_micro_batches_as_there_are_stages_behind_them() -> None:
    layout = scenario({"a": ({}, {}), "b": ({}, {"pp": 2, "rank_offset": 1})}).table("b").grids()
    assert [num_in_flight(layout, module, rank, 8) for rank, module in enumerate(("vision", LANGUAGE, LANGUAGE))] == [
        3, 2, 1,
    ]  # fmt: skip
    assert num_in_flight(layout, "vision", 0, 2) == 2


def test_a_rank_that_nothing_goes_back_through_multiplies_in_one_direction_alone() -> None:
    stage_one = load_scenario(REPOSITORY / "scenarios" / "stages.toml")
    # A frozen stage of the encoder, the one with the projector, and a frozen language model that gradients pass.
    peaks = [rank.peak_bytes for rank in predict_memory(stage_one, "vision-pp2--language-1")]
    assert [peak and peak // MATRIX_PRODUCTS_BYTES for peak in peaks] == [1, 2, 2]


def changed(**settings: bool | str) -> Scenario:
    """The 7B widths on one GPU, plain but for `settings`."""
    known = load_scenario(REPOSITORY / "scenarios" / "gpu1.toml").model_dump(mode="json")
    table = known["layout"][0] | {"settings": settings, "global_micro_batch_size": 4}
    return Scenario.model_validate_json(json.dumps(known | {"layout": [table]}))


def test_recomputation_compilation_and_kernels_change_activations_alone() -> None:
    def language(**settings: bool | str) -> tuple[int, int]:
        (rank,) = predict_memory(changed(**settings), "plain")
        found = rank.modules[LANGUAGE]
        assert found.activations_bytes is not None
        return found.activations_bytes, found.parameters_bytes + found.gradients_bytes + found.optimizer_bytes

    plain, state = language()
    # A layer leaves 10 h + 5 f of 2 bytes for each of 4 x 1024 positions; compiled 2 f less; recomputed only h.
    positions, h, f, layers = 4 * 1024, 4096, 11008, 8
    assert plain - language(compile_layers=True)[0] == layers * positions * 2 * f * 2
    statistics = 4 * 32 * 1024 * 4
    assert plain - language(recompute_activations=True)[0] == layers * (positions * (9 * h + 5 * f) * 2 + statistics)
    # 32 heads keep every score of 1024 x 1024, in fp32, instead of a number for each position.
    assert language(attention="math")[0] - plain == layers * (4 * 32 * 1024 * 1024 * 4 - statistics)
    assert language(compile_layers=True)[1] == state
    # Logits of 32064 words in 2 bytes instead of probabilities in 4.
    assert plain - language(fused_loss=True)[0] == positions * 32064 * 2


@pytest.mark.parametrize("report", committed.measured(), ids=lambda path: path.name)
def test_measured_peaks_of_committed_runs_are_near_what_is_predicted(report: Path) -> None:
    errors = [abs(error) for error in committed.errors(report)]
    assert max(errors) <= 0.05
    assert sum(errors) / len(errors) <= 0.02


def test_the_documentation_has_the_error_against_every_committed_run() -> None:
    written = committed.METERS.read_text(encoding="utf-8")
    assert written == committed.document(written), "run nox -s reports, and commit what it changed"
    for directory in committed.measured():
        assert f"| `{directory.name}` |" in written


GPU_OF_80_GB, GPU_OF_141_GB = 79 << 30, 139 << 30
NEED_141_GB = {"dp4", "disjoint-vision-1--language-dp3", "disjoint-vision-dp2--language-pp2"}
"""Layouts of `gpu4_full.toml`."""


@pytest.mark.parametrize(
    ("name", "device_bytes", "larger"),
    [
        ("gpu1", GPU_OF_141_GB, set()),
        ("gpu1_long", GPU_OF_141_GB, set()),
        ("gpu2", GPU_OF_80_GB, set()),
        ("gpu2_heavy_encoder", GPU_OF_141_GB, set()),
        ("gpu_three_modules", GPU_OF_141_GB, set()),
        ("gpu4", GPU_OF_80_GB, set()),
        ("gpu4_full", GPU_OF_80_GB, NEED_141_GB),
        ("gpu4_heavy_encoder", GPU_OF_80_GB, set()),
        ("gpu4_heavy_encoder_141gb", GPU_OF_141_GB, set()),
        ("gpu4_light_encoder", GPU_OF_80_GB, set()),
        ("gpu8", GPU_OF_141_GB, set()),
    ],
)
def test_layouts_of_gpu_scenarios_fit_the_gpus_that_they_are_for_and_so_do_the_baselines_variants(
    name: str, device_bytes: int, larger: set[str]
) -> None:
    asked = load_scenario(REPOSITORY / "scenarios" / f"{name}.toml")
    needed = {layout: needed_bytes(asked, layout) for layout in asked.names}
    assert {layout for layout, num_bytes in needed.items() if num_bytes > device_bytes} == larger
    assert max(needed.values()) <= GPU_OF_141_GB
    # One that is out of memory would leave every layout without a verdict.
    variants = rounded_variants(asked)
    assert {variant.name for variant in variants} >= {"jitter", "micro-batches"}
    assert max(needed_bytes(variant.scenario, asked.baseline) for variant in variants) <= device_bytes


LARGER_ON_FOUR = (({"tp": 2, "dp": 2}, False), ({"dp": 4}, False), ({"dp": 4}, True))


@pytest.mark.parametrize(
    ("name", "given_name", "device_bytes", "others"),
    [
        ("gpu2_heavy_encoder", "tp2", GPU_OF_141_GB, (({"dp": 2}, False), ({"dp": 2}, True))),
        ("gpu4_heavy_encoder", "tp4", GPU_OF_80_GB, LARGER_ON_FOUR),
        ("gpu4_heavy_encoder_141gb", "tp4", GPU_OF_141_GB, LARGER_ON_FOUR),
    ],
)
def test_equal_degrees_that_a_heavy_encoders_scenario_leaves_out_do_not_fit(
    name: str, given_name: str, device_bytes: int, others: tuple[tuple[dict[str, int], bool], ...]
) -> None:
    asked = load_scenario(REPOSITORY / "scenarios" / f"{name}.toml")
    given = asked.table(given_name)
    for degrees, recomputes in others:
        grid = GridTable(**degrees)
        settings = given.settings.model_copy(update={"recompute_activations": recomputes})
        equal = given.model_copy(
            # The smallest micro-batches that there are.
            update={"audio": grid, "language": grid, "global_micro_batch_size": grid.dp, "settings": settings}
        )
        other = Scenario.model_validate({**dict(asked), "layout": (equal,), "baseline": equal.name})
        assert needed_bytes(other, equal.name) > device_bytes


def needed_bytes(asked: Scenario, layout: str) -> int:
    return max(rank.device_bytes for rank in predict_memory(asked, layout))


def test_the_table_says_what_each_rank_needs_and_whether_it_fits() -> None:
    known = changed()
    lines = list(describe_memory(predict_memory(known, "plain"), device_bytes=48 << 30))
    assert lines[0].split() == [
        "rank", "module", "parameters", "gradients", "optimizer", "activations", "workspace", "peak",
    ]  # fmt: skip
    assert [line.split()[:2] for line in lines[1:3]] == [["0", "vision"], ["language", "3.51"]]
    assert "does NOT fit 48 GiB" in lines[3]
    assert list(describe_memory(predict_memory(known, "plain"), device_bytes=80 << 30))[3].endswith("fits 80 GiB")
    assert "fit" not in list(describe_memory(predict_memory(known, "plain"), device_bytes=None))[3]


def test_what_experts_keep_for_the_backward_pass_is_not_guessed() -> None:
    experts = load_scenario(REPOSITORY / "scenarios" / "experts.toml")
    name = "vision-dp2--language-dp4-ep2"
    vision, *_, last = predict_memory(experts, name)
    assert vision.peak_bytes
    assert (last.peak_bytes, last.modules[LANGUAGE].activations_bytes) == (None, None)
    lines = list(describe_memory(predict_memory(experts, name), device_bytes=80 << 30))
    assert lines[-2].split()[-3:] == ["-", "-", "-"]
    assert lines[-1].endswith("routing decides what experts keep for the backward pass beyond that")
    # What is kept in any case may be too much by itself.
    assert list(describe_memory(predict_memory(experts, name), device_bytes=1 << 30))[-1].endswith("does NOT fit 1 GiB")


def test_an_expert_is_counted_where_it_is_and_its_optimizer_is_sharded_over_those_that_hold_it() -> None:
    shape = PRESETS["llava-moe-tiny"]
    parts = stage_parameters(shape, LANGUAGE, Grid(tp=2, dp=4, ep=2, pp=4), stage=1)
    experts = [one for one in parts if one.has_expert_replicas]
    # Two of four experts of one layer, whole: gate and up 2 x 64 x 64, down 64 x 64. The router is on every rank.
    assert [one.num_elements for one in experts] == [8192, 4096, 8192, 4096]
    assert [one.num_elements for one in parts if "router" in one.name] == [4 * 64]
    # 24576 elements over the four ranks that hold them: 6144 on each, two moments of 4 bytes.
    for dp_rank, tp_rank in ((0, 0), (1, 1), (3, 0)):
        state = state_bytes(
            experts,
            grid=Grid(tp=2, dp=4, ep=2, pp=4),
            stage=1,
            dp_rank=dp_rank,
            tp_rank=tp_rank,
            settings=SHARDED,
            precision="fp32",
        )
        assert (state.parameters, state.optimizer) == (24576 * 4, 6144 * 8)
    assert not any(one.has_expert_replicas for one in stage_parameters(shape, LANGUAGE, Grid(dp=4), stage=0))


def test_ranks_that_need_as_much_share_a_row() -> None:
    two = scenario({"a": ({"dp": 2}, {"dp": 2}), "b": ({}, {"dp": 2, "rank_offset": 1})})
    assert [line.split()[0] for line in describe_memory(predict_memory(two, "a"), device_bytes=None)][1] == "0-1"
    rows = [line.split()[0] for line in describe_memory(predict_memory(two, "b"), device_bytes=None)]
    assert rows[1:3] == ["0", "1-2"]


def test_ranks_that_print_alike_share_a_row_wherever_they_are() -> None:
    # 64 bytes more are not seen in 1 GiB; rank 2 differs.
    (one,) = predict_memory(scenario({"a": ({}, {})}), "a")
    peaks = (1 << 30, (1 << 30) + 64, 2 << 30, 1 << 30, 1 << 30)
    ranks = [replace(one, rank=rank, peak_bytes=peak) for rank, peak in enumerate(peaks)]
    rows = [line.split()[0] for line in describe_memory(ranks, device_bytes=None)]
    assert rows[1::2][:2] == ["0-1,3-4", "2"]


@pytest.mark.parametrize(
    ("num_bytes", "shown"), [(0, "0 B"), (1023, "0.999 KiB"), (1 << 20, "1 MiB"), (3 << 29, "1.5 GiB")]
)
def test_sizes_have_three_digits(num_bytes: int, shown: str) -> None:
    assert size(num_bytes) == shown


def test_a_layout_predicted_among_many_is_predicted_as_alone(tmp_path: Path) -> None:
    file = tmp_path / "many.toml"
    file.write_text(synthetic.scenario(num_layouts=400), encoding="utf-8")
    many = load_scenario(file)
    predictor = MemoryPredictor(many)
    for table in many.layout:
        layout = table.grids()
        among_many = predictor.predict(table, layout, many.plan_of(table, layout))
        assert among_many == predict_memory(many, table.name), table.name
        assert [each.rank for each in among_many] == list(range(layout.world_size))
