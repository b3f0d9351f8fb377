"""Which groups of ranks talk to each other: every process group of a layout, built once, each with a role name.

Topology] -> meters -> record -> parity -> report

Creating a group is collective over the whole world: every rank creates every group in the same order, member or not,
or sums cross over between groups without an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from megatron.core.hyper_comm_grid import HyperCommGrid
from megatron.core.process_groups_config import MultiModuleProcessGroupCollection, ProcessGroupCollection

from mimo_bench.layout import LANGUAGE, Grid, Layout

_AXES = ("tp", "cp", "dp", "pp")
_EXPERT_VIEW = "expert"
"""megatron-core's MIMO optimizer asks for expert groups by this view name, also from a dense model."""
_DENSE_GROUPS = (
    ("tp",), ("cp",), ("pp",), ("dp",), ("dp", "cp"), ("tp", "cp"), ("tp", "pp"), ("tp", "dp", "cp"),
    ("tp", "cp", "dp", "pp"),
)  # fmt: skip
_EXPERT_GROUPS = (("ep",), ("expt_tp",), ("expt_dp",), ("expt_tp", "ep"), ("expt_tp", "ep", "pp"))
_EXPERT_ROLES = {"ep": "ep", "expt_tp": "expert_tp", "expt_dp": "expert_dp", "pp": "pp"}
"""How the axes of that view read in the names of groups."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """The process groups of a layout as one rank holds them."""

    layout: Layout
    rank: int
    grids: dict[str, HyperCommGrid]
    groups: dict[str, ProcessGroupCollection]
    """By module; only the modules that this rank hosts."""

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules this rank hosts."""
        return self.layout.modules_of(self.rank)

    @property
    def hosts_language(self) -> bool:
        """True if this rank holds a part of the language model."""
        return LANGUAGE in self.modules

    def is_first_stage(self, module: str) -> bool:
        """True if this rank holds the first pipeline stage of `module`."""
        return self._stage(module) == 0

    def is_last_stage(self, module: str) -> bool:
        """True if this rank holds the last pipeline stage of `module`."""
        return self._stage(module) == self.layout.modules[module].pp - 1

    def speaks_for_replica(self, module: str) -> bool:
        """True if this rank is the one of its tensor-parallel group that counts what the group's replica sees."""
        grid = self.layout.modules[module]
        return self.rank in grid.ranks and grid.coordinate(self.rank).tp == 0

    def for_schedule(self) -> ProcessGroupCollection | MultiModuleProcessGroupCollection:
        """The groups in the form that the pipeline schedule of this placement takes."""
        if self.layout.placement == "colocated":
            return self.groups[LANGUAGE]
        return MultiModuleProcessGroupCollection(
            module_pgs=self.groups, language_model_module_name=LANGUAGE if self.hosts_language else None
        )

    def _stage(self, module: str) -> int:
        grid = self.layout.modules[module]
        return grid.coordinate(self.rank).pp if self.rank in grid.ranks else -1


def build_topology(layout: Layout, *, backend: str) -> Topology:
    """Create every process group of a layout; collective over the world."""
    rank = dist.get_rank()
    grids = {name: _build_grid(name, grid, backend) for name, grid in layout.modules.items()}
    groups = {}
    for name, grid in grids.items():
        # Only the language model has embeddings that two stages may share.
        embedding, position = _build_embedding_groups(grid, rank, backend) if name == LANGUAGE else (None, None)
        if rank in layout.modules[name].ranks:
            groups[name] = _collect(grid, embedding, position)
    return Topology(layout=layout, rank=rank, grids=grids, groups=groups)


def _build_grid(module: str, grid: Grid, backend: str) -> HyperCommGrid:
    degrees = {"tp": grid.tp, "cp": grid.cp, "dp": grid.dp, "pp": grid.pp}
    built = HyperCommGrid([degrees[axis] for axis in _AXES], list(_AXES), rank_offset=grid.rank_offset, backend=backend)
    # pp is last in both views: expert and dense stages must hold the same ranks, or pipelines of the two would hang.
    expert = {"expt_tp": 1, "ep": grid.ep, "expt_dp": grid.expert_dp, "pp": grid.pp}
    built.register_view(_EXPERT_VIEW, list(expert.values()), list(expert), shared_dims=["pp"])
    for axes in _DENSE_GROUPS:
        built.create_pg(list(axes), group_desc=f"{module}.{'-'.join(axes)}")
    for axes in _EXPERT_GROUPS:
        role = "-".join(_EXPERT_ROLES[axis] for axis in axes)
        built.create_pg(list(axes), view=_EXPERT_VIEW, group_desc=f"{module}.{role}")
    return built


def _build_embedding_groups(
    grid: HyperCommGrid, rank: int, backend: str
) -> tuple[dist.ProcessGroup | None, dist.ProcessGroup | None]:
    """Groups over first and last stage (word embeddings) and over the first (positions) of every pipeline."""
    embedding = position = None
    for pipeline in grid.get_rank_enum("pp"):
        ends = sorted({pipeline[0], pipeline[-1]})
        group = dist.new_group(ends, backend=backend, group_desc=f"{LANGUAGE}.embedding")
        first = dist.new_group(pipeline[:1], backend=backend, group_desc=f"{LANGUAGE}.position_embedding")
        embedding = group if rank in ends else embedding
        position = first if rank == pipeline[0] else position
    return embedding, position


def _collect(
    grid: HyperCommGrid, embedding: dist.ProcessGroup | None, position: dist.ProcessGroup | None
) -> ProcessGroupCollection:
    groups = ProcessGroupCollection()
    groups.tp = grid.get_pg("tp")
    groups.cp = grid.get_pg("cp")
    groups.pp = grid.get_pg("pp")
    groups.dp = grid.get_pg("dp")
    groups.dp_cp = grid.get_pg(["dp", "cp"])
    groups.tp_cp = grid.get_pg(["tp", "cp"])
    groups.mp = grid.get_pg(["tp", "pp"])
    groups.tp_dp_cp = grid.get_pg(["tp", "dp", "cp"])
    groups.intra_dist_opt = grid.get_pg(["tp", "cp", "dp", "pp"])
    groups.ep = grid.get_pg("ep", view=_EXPERT_VIEW)
    groups.expt_tp = grid.get_pg("expt_tp", view=_EXPERT_VIEW)
    groups.expt_dp = grid.get_pg("expt_dp", view=_EXPERT_VIEW)
    # An expert is whole on its rank, so both are the same ranks; this one has the shorter name.
    groups.tp_ep = groups.ep
    groups.tp_ep_pp = grid.get_pg(["expt_tp", "ep", "pp"], view=_EXPERT_VIEW)
    groups.embd = embedding
    groups.pos_embd = position
    return groups
