"""Every layout deals out the same samples, whatever they hold, and a resumed run goes on with the same ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_bench.data.config import Split, SyntheticData
from mimo_bench.data.dataset import CPU, Text
from mimo_bench.data.synthetic import SyntheticDataset
from mimo_bench.layout.batch import BatchPlan
from mimo_bench.layout.grid import Grid
from mimo_bench.layout.layout import Layout
from mimo_bench.models import PRESETS
from mimo_bench.trainer.loader import Loader, MicroBatch, refuse_other_models
from mimo_bench.trainer.topology import Topology
from mimo_bench.util.errors import DataError

SHAPE = PRESETS["llava-tiny"]
SEQ_LENGTH = 64  # three images of 16 positions, and text

workloads = st.builds(
    SyntheticData,
    items_per_sample=st.fixed_dictionaries(
        {"vision": st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=1, max_size=4).filter(any).map(tuple)}
    ),
    text_only_share=st.sampled_from([0.0, 0.5, 1.0]),
    shortest_text=st.sampled_from([0.0, 0.5, 1.0]),
    length_skew=st.sampled_from([0.5, 1.0, 4.0]),
)

degrees = st.sampled_from([1, 2, 4])


@st.composite
def layouts(draw: Callable[[st.SearchStrategy[int]], int]) -> Layout:
    """Colocated and disjoint, fan-in and fan-out, either module first."""
    tp, dp = draw(degrees), draw(degrees)
    if draw(st.sampled_from([0, 1])):
        other_dp = draw(st.sampled_from([degree for degree in (1, 2, 4) if tp * dp % degree == 0]))
        grids = {"vision": Grid(tp=tp, dp=dp), "language": Grid(tp=tp * dp // other_dp, dp=other_dp)}
        return Layout(modules=grids)
    vision, language = Grid(tp=tp, dp=dp), Grid(tp=draw(degrees), dp=draw(degrees), pp=draw(degrees))
    if draw(st.sampled_from([0, 1])):
        vision = replace(vision, rank_offset=language.size)
    else:
        language = replace(language, rank_offset=vision.size)
    return Layout(modules={"vision": vision, "language": language})


@given(layout=layouts(), micro_batch=st.sampled_from([4, 8, 16]), step=st.integers(0, 1000))
def test_every_module_reads_each_sample_of_a_step_once_in_every_layout(
    layout: Layout, micro_batch: int, step: int
) -> None:
    plan = BatchPlan.of(layout, global_batch_size=16, global_micro_batch_size=micro_batch)
    for module, grid in layout.modules.items():
        read = Counter(
            sample_id
            for index in range(plan.num_micro_batches)
            for dp_rank in range(grid.dp)
            for sample_id in plan.sample_ids(step=step, micro_batch=index, module=module, dp_rank=dp_rank)
        )
        assert read == Counter(range(16 * step, 16 * step + 16))


@settings(deadline=None, max_examples=40)
@given(workload=workloads, layout=layouts(), micro_batch=st.sampled_from([4, 8]), step=st.integers(0, 100))
def test_the_micro_batches_of_all_ranks_join_to_the_global_batch_of_one_rank_bit_for_bit(
    workload: SyntheticData, layout: Layout, micro_batch: int, step: int
) -> None:
    whole = Loaded(workload, Layout(modules={"vision": Grid(), "language": Grid()}), micro_batch=8, step=step)
    assert whole.num_micro_batches == 1
    dealt = Loaded(workload, layout, micro_batch=micro_batch, step=step)
    for field in ("encoder_inputs", "input_ids", "position_ids", "labels", "loss_mask"):
        assert torch.equal(dealt.joined(field), whole.joined(field)), field


@settings(deadline=None, max_examples=25)
@given(layout=layouts())
def test_a_rank_reads_what_its_stages_need_and_nothing_else(layout: Layout) -> None:
    for topology, batch in Loaded(SyntheticData(), layout, micro_batch=4, step=0).by_rank:
        stage = layout.language.coordinate(topology.rank).pp if topology.hosts_language else None
        reads_text = stage in (0, layout.language.pp - 1)
        for micro_batch in batch:
            assert micro_batch.encoder_inputs.keys() == {"vision"} & set(topology.modules)
            for column in (micro_batch.input_ids, micro_batch.labels, micro_batch.loss_mask):
                assert (column is not None) == reads_text
            assert (micro_batch.num_tokens > 0) == reads_text


class Loaded:
    """What every rank of a layout reads in one step: the real loader, with no process behind its topology."""

    def __init__(self, workload: SyntheticData, layout: Layout, *, micro_batch: int, step: int) -> None:
        """Read one step of 8 samples on every rank."""
        plan = BatchPlan.of(layout, global_batch_size=8, global_micro_batch_size=micro_batch)
        self._layout = layout
        self.num_micro_batches = plan.num_micro_batches
        self.by_rank: list[tuple[Topology, list[MicroBatch]]] = []
        for rank in range(layout.world_size):
            topology = Topology(layout=layout, rank=rank, grids={}, groups={})
            loader = build(workload, plan, topology)
            self.by_rank.append((topology, loader.global_batch("train", step)))

    def joined(self, field: str) -> torch.Tensor:
        """The whole batch, from the replicas of each micro-batch; ranks of one replica must hold the same."""
        module = "vision" if field == "encoder_inputs" else "language"
        parts: dict[tuple[int, int], torch.Tensor] = {}
        for topology, batch in self.by_rank:
            for index, micro_batch in enumerate(batch):
                part = getattr(micro_batch, field)
                if field == "encoder_inputs" and (part := part.get(module)) is not None:
                    # Without the blank item of a replica that has none.
                    part = part[: sum(micro_batch.items_per_sample[module])]
                if part is not None:
                    replica = self._layout.modules[module].coordinate(topology.rank).dp
                    assert torch.equal(parts.setdefault((index, replica), part), part)
        return torch.cat([part for _, part in sorted(parts.items(), key=lambda item: item[0])])


def build(workload: SyntheticData, plan: BatchPlan, topology: Topology) -> Loader:
    return Loader(
        dataset=SyntheticDataset(workload, shape=SHAPE, seq_length=SEQ_LENGTH, seed=0),
        plan=plan,
        topology=topology,
        shape=SHAPE,
        seq_length=SEQ_LENGTH,
        input_dtype=torch.float32,
        device=torch.device("cpu"),
    )


def alone(workload: SyntheticData, *, global_micro_batch_size: int = 4) -> Loader:
    """The loader of a layout of one rank."""
    layout = Layout(modules={"vision": Grid(), "language": Grid()})
    plan = BatchPlan.of(layout, global_batch_size=8, global_micro_batch_size=global_micro_batch_size)
    return build(workload, plan, Topology(layout=layout, rank=0, grids={}, groups={}))


@settings(deadline=None, max_examples=8)
@given(workload=workloads, start=st.integers(0, 6))
def test_a_run_that_resumes_at_any_step_goes_on_with_the_same_samples(workload: SyntheticData, start: int) -> None:
    whole = list(islice(alone(workload).batches("train"), 8))
    resumed = list(islice(alone(workload).batches("train", start=start), 8 - start))
    for expected, found in zip(whole[start:], resumed, strict=True):
        for one, other in zip(expected, found, strict=True):
            assert one.sample_ids == other.sample_ids
            assert torch.equal(one.encoder_inputs["vision"], other.encoder_inputs["vision"])
            assert one.input_ids is not None
            assert other.input_ids is not None
            assert torch.equal(one.input_ids, other.input_ids)


def test_a_replica_without_any_image_reads_a_blank_one_that_is_nobodys() -> None:
    (batch, _) = alone(SyntheticData(text_only_share=1.0)).global_batch("train", 0)
    assert torch.equal(batch.encoder_inputs["vision"], torch.zeros(1, 3, 16, 16))
    assert batch.items_per_sample == {"vision": (0, 0, 0, 0)}
    assert batch.rows_per_sample == {"vision": (0, 0, 0, 0)}


def test_rows_are_counted_where_the_text_waits_for_them() -> None:
    workload = SyntheticData(items_per_sample={"vision": (1.0, 1.0, 1.0)})
    for batch in alone(workload).global_batch("train", 0):
        assert batch.rows_per_sample["vision"] == tuple(16 * count for count in batch.items_per_sample["vision"])


class _TooFewImages(SyntheticDataset):
    """A dataset whose third sample has lost an image that its text still names."""

    def num_items(self, module: str, split: Split, sample_id: int) -> int:
        return super().num_items(module, split, sample_id) - (sample_id == 2)

    def text(self, split: Split, sample_id: int) -> Text:
        return SyntheticDataset(SyntheticData(), shape=SHAPE, seq_length=SEQ_LENGTH, seed=0).text(split, sample_id)


def test_a_text_that_names_an_image_which_its_sample_lacks_is_refused_by_the_samples_id() -> None:
    dataset = _TooFewImages(SyntheticData(), shape=SHAPE, seq_length=SEQ_LENGTH, seed=0)
    with pytest.raises(DataError, match=r"sample 2 of train: its text holds 16 tokens 255 for vision, and its 0 items"):
        replace(alone(SyntheticData()), dataset=dataset).global_batch("train", 0)


class _Changed(SyntheticDataset):
    """A dataset of a user's own whose third sample has something that the model cannot take."""

    def __init__(self, *, tokens: Any = None, is_answer: Any = None, inputs: Any = None) -> None:
        super().__init__(SyntheticData(), shape=SHAPE, seq_length=SEQ_LENGTH, seed=0)
        self._tokens, self._is_answer, self._inputs = tokens, is_answer, inputs

    def encoder_inputs(self, module: str, split: Split, sample_id: int, device: torch.device = CPU) -> torch.Tensor:
        own = super().encoder_inputs(module, split, sample_id, device)
        return self._inputs(own) if self._inputs and sample_id == 2 else own

    def text(self, split: Split, sample_id: int) -> Text:
        own = super().text(split, sample_id)
        if sample_id != 2:
            return own
        return Text(
            tokens=self._tokens(own.tokens) if self._tokens else own.tokens,
            is_answer=self._is_answer(own.is_answer) if self._is_answer else own.is_answer,
        )


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (
            {"tokens": lambda own: own.repeat(4)[:65], "is_answer": lambda own: own.repeat(4)[:65]},
            "its text has 65 tokens; give 1 to seq_length = 64",
        ),
        (
            {"tokens": lambda own: own[:0], "is_answer": lambda own: own[:0]},
            "its text has 0 tokens; give 1 to seq_length = 64",
        ),
        # No rank of a tensor-parallel group has such a word, and all would embed it as zeros.
        (
            {"tokens": lambda own: own.where(own < 200, own + 1)},
            "its text holds token 256; the model's vocabulary is 0 to 255",
        ),
        (
            {"tokens": lambda own: own.where(own != 255, -1)},
            "its text holds token -1; the model's vocabulary is 0 to 255",
        ),
        ({"tokens": lambda own: own.int()}, "tokens are int32 ["),
        ({"is_answer": lambda own: own[1:]}, "is_answer is bool ["),
        ({"is_answer": lambda own: own.float()}, "is_answer is float32 ["),
        (
            {"inputs": lambda own: own.repeat(2, 1, 1, 1)},
            "encoder_inputs for vision are float32 [2, 3, 16, 16], and num_items is 1; give float32 [1, 3, 16, 16]",
        ),
        ({"inputs": lambda own: own[0]}, "encoder_inputs for vision are float32 [3, 16, 16], and num_items is 1; give"),
        ({"inputs": lambda own: own.to(torch.uint8)}, "encoder_inputs for vision are uint8 [1, 3, 16, 16], and"),
    ],
)
def test_a_sample_that_the_model_cannot_take_is_refused_by_its_id(changed: dict[str, Any], complaint: str) -> None:
    loader = replace(alone(SyntheticData()), dataset=_Changed(**changed))
    with pytest.raises(DataError, match=re.escape(f"sample 2 of train: {complaint}")):
        loader.global_batch("train", 0)


def test_a_model_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(
        DataError, match="Linear is no MimoModel; loaders split samples over the modules of a MimoModel only"
    ):
        refuse_other_models(torch.nn.Linear(2, 2))
