"""Which module sits on which ranks: properties that hold for every layout, and refusals worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_bench.layout.batch import BatchPlan
from mimo_bench.layout.grid import Coordinate, Grid
from mimo_bench.layout.layout import Layout
from mimo_bench.util.errors import LayoutError

degrees = st.integers(min_value=1, max_value=4)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Vision and language, colocated or side by side in either order, with data parallelism that divides."""
    vision_dp, language_dp = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (4, 2), (2, 4), (3, 3), (6, 2)]))
    vision_tp, language_tp, pp = draw(degrees), draw(degrees), draw(degrees)
    if draw(st.booleans()):
        # Equal spans: each side makes up with tp for what the other has in dp.
        common = Grid(tp=vision_tp, dp=vision_dp)
        language = common if common.size % language_dp else Grid(tp=common.size // language_dp, dp=language_dp)
        return Layout(modules={"vision": common, "language": language})
    vision, language = Grid(tp=vision_tp, dp=vision_dp), Grid(tp=language_tp, pp=pp, dp=language_dp)
    if draw(st.booleans()):
        language = Grid(tp=language_tp, pp=pp, dp=language_dp, rank_offset=vision.size)
    else:
        vision = Grid(tp=vision_tp, dp=vision_dp, rank_offset=language.size)
    return Layout(modules={"vision": vision, "language": language})


@st.composite
def plans(draw: st.DrawFn) -> tuple[Layout, BatchPlan]:
    layout = draw(layouts())
    # 12 is a multiple of every data-parallel degree above.
    micro = 12 * draw(st.integers(min_value=1, max_value=3))
    size = micro * draw(st.integers(min_value=1, max_value=3))
    return layout, BatchPlan.of(layout, global_batch_size=size, global_micro_batch_size=micro)


@given(layouts())
def test_spans_tile_the_world_and_every_rank_has_a_role(layout: Layout) -> None:
    used = {rank for grid in layout.modules.values() for rank in grid.ranks}
    assert used == set(range(layout.world_size))
    assert all(layout.modules_of(rank) for rank in range(layout.world_size))


@given(layouts())
def test_any_two_spans_are_equal_or_disjoint(layout: Layout) -> None:
    vision, language = set(layout.modules["vision"].ranks), set(layout.language.ranks)
    assert vision == language or not vision & language
    assert (layout.placement == "colocated") == (vision == language)


@given(tp=degrees, pp=degrees, dp=degrees, rank_offset=st.integers(min_value=0, max_value=9))
def test_coordinates_are_a_bijection(tp: int, pp: int, dp: int, rank_offset: int) -> None:
    grid = Grid(tp=tp, pp=pp, dp=dp, rank_offset=rank_offset)
    coordinates = [grid.coordinate(rank) for rank in grid.ranks]
    assert set(coordinates) == {Coordinate(tp=i, dp=j, pp=k) for i in range(tp) for j in range(dp) for k in range(pp)}
    assert len(coordinates) == grid.size


@given(plans(), st.integers(min_value=0, max_value=3))
def test_every_module_sees_each_sample_of_the_global_batch_once(planned: tuple[Layout, BatchPlan], step: int) -> None:
    layout, plan = planned
    for module, grid in layout.modules.items():
        dealt = [
            sample
            for micro_batch in range(plan.num_micro_batches)
            for dp_rank in range(grid.dp)
            for sample in plan.sample_ids(step=step, micro_batch=micro_batch, module=module, dp_rank=dp_rank)
        ]
        assert dealt == list(range(step * plan.global_batch_size, (step + 1) * plan.global_batch_size))


def test_tensor_parallel_ranks_are_neighbours_then_data_then_pipeline() -> None:
    grid = Grid(tp=2, dp=2, pp=2, rank_offset=4)
    assert grid.ranks == range(4, 12)
    assert grid.coordinate(5) == Coordinate(tp=1, dp=0, pp=0)
    assert grid.coordinate(6) == Coordinate(tp=0, dp=1, pp=0)
    assert grid.coordinate(8) == Coordinate(tp=0, dp=0, pp=1)
    assert grid.coordinate(11) == Coordinate(tp=1, dp=1, pp=1)


def test_ep_ranks_of_a_stage_in_a_row_hold_every_expert_once() -> None:
    grid = Grid(tp=2, dp=4, ep=4, pp=2, rank_offset=1)
    # Over the two tensor-parallel ranks first, then over the next replica; the second stage begins at rank 9.
    assert [grid.coordinate(rank).ep for rank in grid.ranks] == [0, 1, 2, 3] * 4
    assert (grid.size, grid.expert_dp) == (16, 2)
    assert Grid(tp=2, dp=2).expert_dp == 4


def test_a_fan_in_deals_the_same_micro_batch_in_halves_and_whole() -> None:
    layout = Layout(modules={"vision": Grid(dp=2), "language": Grid(tp=2, rank_offset=2)})
    plan = BatchPlan.of(layout, global_batch_size=8, global_micro_batch_size=4)
    assert (plan.num_micro_batches, plan.micro_batch_size) == (2, {"vision": 2, "language": 4})
    # Step 1 begins at sample 8, its second micro-batch at 12.
    assert plan.sample_ids(step=1, micro_batch=1, module="vision", dp_rank=0) == range(12, 14)
    assert plan.sample_ids(step=1, micro_batch=1, module="vision", dp_rank=1) == range(14, 16)
    assert plan.sample_ids(step=1, micro_batch=1, module="language", dp_rank=0) == range(12, 16)


def test_a_rank_knows_its_modules() -> None:
    colocated = Layout(modules={"vision": Grid(dp=2), "language": Grid(tp=2)})
    assert colocated.modules_of(1) == ("vision", "language")
    disjoint = Layout(modules={"vision": Grid(), "language": Grid(rank_offset=1)})
    assert (disjoint.modules_of(0), disjoint.modules_of(1)) == (("vision",), ("language",))
    assert (colocated.placement, disjoint.placement) == ("colocated", "disjoint")


@pytest.mark.parametrize(
    ("degree", "complaint"),
    [
        ({"tp": 0}, "tp = 0: a parallel degree is at least 1"),
        ({"dp": -2}, "dp = -2"),
        ({"rank_offset": -1}, "rank_offset = -1: the first rank is 0"),
        ({"cp": 2}, "cp = 2: .* use cp = 1"),
        ({"ep": 0}, "ep = 0: a parallel degree is at least 1"),
        ({"tp": 2, "dp": 2, "ep": 3}, r"ep = 3: .* use a divisor of tp \* dp = 4"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(degree: dict[str, int], complaint: str) -> None:
    with pytest.raises(LayoutError, match=complaint):
        Grid(**degree)


@pytest.mark.parametrize(
    ("vision", "language", "complaint"),
    [
        (
            Grid(dp=4),
            Grid(dp=2),
            "language on ranks 0-1 overlap in part; set language.rank_offset = 4, or give both the same ranks",
        ),
        (
            Grid(dp=2),
            Grid(dp=2, rank_offset=1),
            "vision on ranks 0-1 and language on ranks 1-2 overlap in part; set language.rank_offset = 2, or",
        ),
        (
            Grid(tp=2, rank_offset=3),
            Grid(tp=4),
            "vision on ranks 3-4 and language on ranks 0-3 overlap in part; set vision.rank_offset = 4, or",
        ),
        (Grid(), Grid(rank_offset=2), "language.rank_offset = 2: no module uses rank 1; use rank_offset = 1"),
        (Grid(dp=2), Grid(rank_offset=4), "language.rank_offset = 4: no module uses ranks 2-3; use rank_offset = 2"),
        (Grid(rank_offset=5), Grid(tp=2), "vision.rank_offset = 5: no module uses ranks 2-4; use rank_offset = 2"),
        (
            Grid(rank_offset=1),
            Grid(rank_offset=2),
            "vision.rank_offset = 1: no module uses rank 0; use rank_offset = 0",
        ),
        (
            Grid(rank_offset=3),
            Grid(rank_offset=3),
            "vision.rank_offset = language.rank_offset = 3: no module uses ranks 0-2; use rank_offset = 0",
        ),
        (Grid(pp=2), Grid(tp=2), "vision.pp = 2: colocated modules cannot be pipelined.* use vision.pp = 1"),
        (Grid(tp=2), Grid(pp=2), "language.pp = 2: colocated modules cannot be pipelined"),
        (Grid(dp=2, ep=2), Grid(dp=2), "vision.ep = 2: encoders have no experts; use vision.ep = 1"),
        (Grid(dp=3), Grid(dp=2, rank_offset=3), "vision.dp = 3 and language.dp = 2: .* let one dp divide the other"),
    ],
)
def test_a_layout_that_cannot_be_trained_is_refused(vision: Grid, language: Grid, complaint: str) -> None:
    with pytest.raises(LayoutError, match=complaint):
        Layout(modules={"vision": vision, "language": language})


def test_two_encoders_may_share_ranks_wherever_the_language_model_is() -> None:
    assert Layout(modules={"audio": Grid(), "vision": Grid(), "language": Grid()}).placement == "colocated"
    shared = Layout(modules={"vision": Grid(dp=2), "audio": Grid(tp=2), "language": Grid(rank_offset=2)})
    assert shared.placement == "disjoint"
    assert shared.modules_of(0) == shared.modules_of(1) == ("vision", "audio")


def test_encoders_on_the_same_ranks_have_the_same_stages() -> None:
    with pytest.raises(LayoutError, match=r"vision\.pp = 2 and audio\.pp = 1 on the same ranks: .* use the same pp"):
        Layout(modules={"vision": Grid(pp=2), "audio": Grid(dp=2), "language": Grid(rank_offset=2)})


@pytest.mark.parametrize("first", ["vision", "audio"])
def test_an_encoder_shares_ranks_with_the_language_model_only_if_all_do(first: str) -> None:
    apart = {"vision": "audio", "audio": "vision"}[first]
    complaint = f"{first} shares rank 0 with the language model while {apart} is elsewhere: .* never both; give {first}"
    with pytest.raises(LayoutError, match=complaint):
        Layout(modules={first: Grid(), apart: Grid(rank_offset=1), "language": Grid()})


def test_every_layout_places_the_language_model() -> None:
    with pytest.raises(LayoutError, match="no 'language' module"):
        Layout(modules={"vision": Grid()})


@pytest.mark.parametrize(
    ("batch", "micro_batch", "complaint"),
    [
        (10, 4, "global_batch_size = 10 is no multiple of global_micro_batch_size = 4; change one of them"),
        (9, 3, "global_micro_batch_size = 3 does not split over vision.dp = 2; use a multiple of 2"),
    ],
)
def test_a_batch_that_does_not_split_is_refused(batch: int, micro_batch: int, complaint: str) -> None:
    layout = Layout(modules={"vision": Grid(dp=2), "language": Grid(tp=2)})
    with pytest.raises(LayoutError, match=complaint):
        BatchPlan.of(layout, global_batch_size=batch, global_micro_batch_size=micro_batch)
