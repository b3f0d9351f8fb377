"""Predicted calls and bytes, worked out by hand, and held against what two GPUs were seen to call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.data.config import SyntheticData
from mimo_bench.data.synthetic import SyntheticDataset
from mimo_bench.layout.settings import Settings
from mimo_bench.predict import CommunicationPrediction, items_by_step, predict_communication
from mimo_bench.record import LayoutRecord
from mimo_bench.record.files import read_run
from mimo_bench.report.check.communication import CommunicationTables, describe_communication
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from tests import committed
from tests.ranks.trainer_job import scenario
from tests.support import synthetic

# llava-tiny in fp32: width 64, 4 layers in each module, 16 image tokens, 17 positions in the encoder. 4 samples of 32
# positions with one image each, in 2 micro-batches of 2.
ROWS, WIDTH, LAYERS, TOKENS, POSITIONS = 2 * 32, 64, 4, 16, 17
MICRO_BATCHES = 2


def of(vision: dict[str, int], language: dict[str, int], **changes: Any) -> CommunicationPrediction:
    """The prediction for one layout beside the baseline."""
    settings = Settings(**changes.pop("settings", {}))
    made = scenario({"plain": ({}, {}), "asked": (vision, language)}, **changes)
    tables = (made.layout[0], made.layout[1].model_copy(update={"settings": settings}))
    asked = Scenario.model_validate({**dict(made), "layout": tables})
    return predict_communication(asked, "asked", items=items_by_step(asked))


def row(found: CommunicationPrediction, role: str, collective: str) -> tuple[float, float]:
    """Calls and bytes."""
    (only,) = (row for row in found.rows if (row.role, row.collective) == (role, collective))
    return only.num_calls, only.num_bytes


def test_tensor_parallel_layers_reduce_twice_forward_and_twice_backward() -> None:
    wide = ROWS * WIDTH * 4
    # Besides: the output layer backward, three numbers for each position in the loss, and the texts without images.
    one_pass = (4 * LAYERS + 1) * wide + 3 * ROWS * 4 + (ROWS - 2 * TOKENS) * WIDTH * 4
    num_passes = 2 * MICRO_BATCHES
    found = of({"dp": 2}, {"tp": 2})
    assert row(found, "language.tp", "all_reduce") == (num_passes * (4 * LAYERS + 5), num_passes * one_pass)


def test_recomputed_layers_reduce_a_third_time() -> None:
    plain, recomputed = (
        row(of({"dp": 2}, {"tp": 2}, settings={"recompute_activations": again}), "language.tp", "all_reduce")
        for again in (False, True)
    )
    more = 2 * MICRO_BATCHES * 2 * LAYERS
    assert recomputed == (plain[0] + more, plain[1] + more * ROWS * WIDTH * 4)


def test_a_fused_loss_makes_one_call_less_for_as_many_bytes() -> None:
    plain, fused = (
        row(of({"dp": 2}, {"tp": 2}, settings={"fused_loss": is_fused}), "language.tp", "all_reduce")
        for is_fused in (False, True)
    )
    assert fused == (plain[0] - 2 * MICRO_BATCHES, plain[1])


def test_sequence_parallel_layers_gather_and_scatter() -> None:
    found = of({"dp": 2}, {"tp": 2}, settings={"sequence_parallel": True})
    wide, num_passes = ROWS * WIDTH * 4, 2 * MICRO_BATCHES
    # Column-parallel layers, 2 a layer and the output: gathered forward and backward; row-parallel ones and the
    # embedding backward. A rank puts half of the positions in.
    gathers = 2 * (2 * LAYERS + 1) + 2 * LAYERS + 1
    scatters = 2 * (2 * LAYERS) + 1
    assert row(found, "language.tp", "all_gather") == (num_passes * gathers, num_passes * gathers * wide // 2)
    assert row(found, "language.tp", "reduce_scatter") == (num_passes * scatters, num_passes * scatters * wide)


def test_every_position_goes_to_its_experts_and_back_whoever_holds_them() -> None:
    found = of({"dp": 4}, {"dp": 4, "ep": 2}, model="llava-moe-tiny", global_micro_batch_size=4)
    # One micro-batch of 4 samples. 3 calls forward and 3 backward: a position's row, the weight of its expert, what the
    # expert makes of it. 4 samples of 32 positions go to 2 experts each.
    num_sent = 4 * 32 * 2
    assert row(found, "language.ep", "all_to_all") == (
        4 * LAYERS * 6,
        LAYERS * num_sent * (4 * WIDTH * 4 + 2 * 4),
    )
    # 4 counts of 8 bytes.
    assert row(found, "language.ep", "all_gather") == (4 * LAYERS, 4 * LAYERS * 32)
    # Two experts of each layer on a rank, 3 x 64 x 64 each; the rest is summed over all four.
    assert row(found, "language.expert_dp", "all_reduce") == (4, 4 * LAYERS * 2 * 3 * 64 * 64 * 4)
    dense = 2 * 256 * 64 + 64 + LAYERS * (2 * 64 + 128 * 64 + 64 * 64 + 4 * 64)
    assert row(found, "language.dp-cp", "all_reduce") == (4, 4 * dense * 4)


def test_an_encoder_that_is_frozen_reduces_nothing_backward() -> None:
    found = of({"tp": 2}, {"dp": 2}, training={"freeze": ("vision",)})
    # 2 a layer over all positions, and the projector's second product over the tokens of 2 images.
    one_pass = 2 * LAYERS * 2 * POSITIONS * WIDTH * 4 + 2 * TOKENS * WIDTH * 4
    assert row(found, "vision.tp", "all_reduce") == (2 * MICRO_BATCHES * 9, 2 * MICRO_BATCHES * one_pass)
    # No gradients of its own either, and none comes back over the bridge.
    assert {one.role for one in found.rows} == {"default_pg", "language.dp-cp", "vision.tp"}


def test_a_bridge_between_ranks_sends_rows_one_way_and_their_gradients_back() -> None:
    found = of({"dp": 2}, {"tp": 2, "rank_offset": 2})
    bridge = "bridge.vision->language"
    # From 2 replicas of the encoder to one of the language model and back; nobody is told how many rows there are.
    image = TOKENS * WIDTH * 4
    messages = 2 * MICRO_BATCHES * 2
    for end in ("send", "recv"):
        assert row(found, bridge, end) == (messages, messages * image)
    # The first of 2 tensor-parallel ranks hands on what came from both.
    assert row(found, bridge, "broadcast") == (2 * MICRO_BATCHES, 2 * MICRO_BATCHES * 2 * image)


@pytest.mark.parametrize(
    ("vision", "language"), [({"dp": 2}, {"tp": 2}), ({"tp": 2}, {"dp": 2})], ids=["fan-in", "fan-out"]
)
def test_shared_ranks_gather_rows_one_way_only(vision: dict[str, int], language: dict[str, int]) -> None:
    # Both ranks, each with the rows of one image.
    expected = (2 * MICRO_BATCHES, 2 * MICRO_BATCHES * TOKENS * WIDTH * 4)
    assert row(of(vision, language), "bridge.vision->language", "all_gather") == expected


def test_half_of_the_element_size_is_half_of_the_activations_and_none_of_the_gradients() -> None:
    fp32, bf16 = (of({"tp": 2}, {"dp": 2}, precision=precision) for precision in ("fp32", "bf16"))
    assert 2 * row(bf16, "vision.tp", "all_reduce")[1] == row(fp32, "vision.tp", "all_reduce")[1]
    assert row(bf16, "language.dp-cp", "all_reduce") == row(fp32, "language.dp-cp", "all_reduce")


def test_one_rank_talks_to_nobody() -> None:
    assert of({}, {}).rows == ()


UNEVEN = SyntheticData(items_per_sample={"vision": (1.0, 1.0)})


def test_what_depends_on_the_items_of_samples_is_left_out_by_name_where_nobody_knows_them() -> None:
    made = scenario({"plain": ({}, {}), "asked": ({"dp": 2}, {"tp": 2})}, data=UNEVEN)
    unknown = predict_communication(made, "asked", items=None)
    assert set(unknown.left_out) == {"bridge.vision->language", "language.tp"}
    assert {row.role for row in unknown.rows} == {"default_pg", "language.tp-pp", "vision.dp-cp"}
    # Two samples without and two with an image: 2 replicas gather 16 rows each in one of the micro-batches, though one
    # of them has none.
    known = predict_communication(made, "asked", items=[{"vision": [0, 1, 0, 0]}])
    assert known.left_out == {}
    assert row(known, "bridge.vision->language", "all_gather") == (2, 2 * TOKENS * WIDTH * 4)


def test_of_steps_that_differ_the_mean_is_predicted() -> None:
    made = scenario({"plain": ({}, {}), "asked": ({"dp": 2}, {"tp": 2})}, data=UNEVEN)
    steps: list[dict[str, list[int]]] = [{"vision": [0, 1, 0, 0]}, {"vision": [0, 0, 0, 0]}, {"vision": [1, 1, 0, 1]}]
    each = [row(predict_communication(made, "asked", items=[one]), "language.tp", "all_reduce") for one in steps]
    found = row(predict_communication(made, "asked", items=steps), "language.tp", "all_reduce")
    assert found == (sum(calls for calls, _ in each) / 3, sum(num_bytes for _, num_bytes in each) / 3)


def test_the_samples_that_will_be_drawn_are_those_of_the_timed_steps() -> None:
    made = scenario({"plain": ({}, {}), "asked": ({"dp": 2}, {"tp": 2})}, data=UNEVEN)
    drawn = SyntheticDataset(UNEVEN, shape=made.shape, seq_length=made.seq_length, seed=made.seed)
    first = made.steps.warmup * made.global_batch_size
    found = items_by_step(made)
    assert found is not None
    assert [count for step in found for count in step["vision"]] == [
        drawn.num_items("vision", "train", first + place) for place in range(made.steps.timed * made.global_batch_size)
    ]


def test_the_table_has_the_largest_first_and_says_what_it_leaves_out() -> None:
    made = scenario({"plain": ({}, {}), "asked": ({"dp": 2}, {"tp": 2})}, data=UNEVEN)
    heading, *rows, left_out = describe_communication(predict_communication(made, "asked", items=None))
    assert heading.split() == ["group", "collective", "calls", "bytes", "a", "step,", "all", "ranks"]
    # Totals of 6 numbers of 8 bytes and 2 norms of 4, on 2 ranks.
    assert [row.split()[:3] for row in rows] == [
        ["vision.dp-cp", "all_reduce", "2"],
        ["default_pg", "all_reduce", "4"],
        ["language.tp-pp", "all_reduce", "2"],
    ]
    assert rows[1].endswith("112 B")
    assert left_out == (
        "  not predicted, as the number of items of samples is unknown: bridge.vision->language, language.tp"
    )
    assert list(describe_communication(predict_communication(made, "plain", items=None))) == []


def test_calls_of_steps_that_differ_are_printed_as_their_mean() -> None:
    made = scenario({"plain": ({}, {}), "asked": ({"dp": 2}, {"tp": 2})}, data=UNEVEN)
    steps: list[dict[str, list[int]]] = [{"vision": [0, 1, 0, 0]}, {"vision": [0, 0, 0, 0]}, {"vision": [0, 0, 1, 0]}]
    lines = [*describe_communication(predict_communication(made, "asked", items=steps))]
    assert [line.split()[2] for line in lines if "all_gather" in line] == ["1.3"]
    assert lines[-1] == "  calls and bytes are means over the timed steps, as their samples differ in items"
    whole = describe_communication(predict_communication(made, "asked", items=steps[:1]))
    assert not any("means" in line for line in whole)


def test_the_table_of_a_layout_among_many_is_the_one_that_it_has_alone(tmp_path: Path) -> None:
    file = tmp_path / "many.toml"
    file.write_text(synthetic.scenario(num_layouts=400), encoding="utf-8")
    many = load_scenario(file)
    tables = CommunicationTables(many)
    for table in many.layout:
        layout = table.grids()
        alone = tuple(describe_communication(predict_communication(many, table.name, items=items_by_step(many))))
        assert tables.of(table, layout, many.plan_of(table, layout)) == alone, table.name


# What GPUs were seen to call.

SPELLED_BY_TORCH = {
    "_all_gather_base": "all_gather",
    "all_gather_into_tensor_coalesced": "all_gather",
    "allreduce_coalesced": "all_reduce",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
}
"""How records of before groups had a size name collectives. They hold groups of one rank, too."""


def measured() -> Iterator[tuple[str, Scenario, LayoutRecord]]:
    """Every layout of a committed run whose communication was recorded."""
    for directory in committed.directories():
        record = read_run(directory)
        made = Scenario.model_validate_json(json.dumps(record.scenario))
        for layout in record.layouts:
            knows_sizes = all(entry.group_size for entry in layout.communication)
            # Before groups had a size, shapes still went ahead of rows from ranks to other ranks.
            if layout.communication and (knows_sizes or made.table(layout.name).grids().placement == "colocated"):
                yield f"{directory.name}-{layout.name}", made, layout


MEASURED = {name: (made, layout) for name, made, layout in measured()}


@pytest.mark.parametrize("name", MEASURED)
def test_gpus_were_seen_to_call_what_is_predicted_to_the_byte(name: str) -> None:
    made, layout = MEASURED[name]
    seen = {
        (entry.role, SPELLED_BY_TORCH.get(entry.collective, entry.collective)): (
            entry.calls_per_step, entry.bytes_per_step,
        )
        for entry in layout.communication
    }  # fmt: skip
    predicted = {
        (one.role, one.collective): (one.num_calls, one.num_bytes)
        for one in predict_communication(made, layout.name, items=items_by_step(made)).rows
    }
    if not all(entry.group_size for entry in layout.communication):
        # What ranks of the whole world tell each other has changed since.
        del predicted["default_pg", "all_reduce"]
    assert predicted
    assert {key: seen.get(key) for key in predicted} == predicted
