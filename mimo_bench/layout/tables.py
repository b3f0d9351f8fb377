"""Tables of a scenario file that describe a layout."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, model_validator

from mimo_bench.layout import limits
from mimo_bench.layout.grid import Grid
from mimo_bench.layout.layout import Layout
from mimo_bench.layout.settings import Settings
from mimo_bench.util import LayoutError, NonNegativeInt, PositiveInt, Table

LAYOUT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Layout names are folder names in a record, so they hold nothing a file system would mind."""


class GridTable(Table):
    """One module's parallel degrees and the first rank of its span."""

    tp: PositiveInt = 1
    cp: PositiveInt = 1
    pp: PositiveInt = 1
    dp: PositiveInt = 1
    ep: Annotated[PositiveInt, Field(exclude_if=lambda ep: ep == 1)] = 1
    """Expert-parallel degree: `ep` consecutive ranks of a stage hold one full set of the language model's experts."""
    rank_offset: NonNegativeInt = 0
    """First global rank of the span; the name is megatron-core's."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_megatron_core_lacks(cls, content: Any) -> Any:
        limits.refuse_virtual_stages(content)
        return content

    def swapped(self) -> GridTable:
        """As many ranks, with tensor and data parallelism the other way round."""
        return self.model_copy(update={"tp": self.dp, "dp": self.tp})

    def grid(self) -> Grid:
        """The checked grid.

        Raises:
            LayoutError: a degree that megatron-core cannot train.
        """
        return Grid(tp=self.tp, cp=self.cp, pp=self.pp, dp=self.dp, ep=self.ep, rank_offset=self.rank_offset)


class LayoutTable(Table):
    """One layout: a grid for each module, and its settings."""

    name: Annotated[str, Field(pattern=LAYOUT_NAME)]
    vision: GridTable | None = None
    """The grid of the vision encoder; given if and only if the model has one, like every encoder's."""
    audio: GridTable | None = None
    language: GridTable
    encoders: Mapping[str, GridTable] = {}
    """The grids of encoders that other packages provide, by name."""
    global_micro_batch_size: PositiveInt | None = None
    """Overrides the scenario's; samples per micro-batch over all replicas."""
    settings: Settings = Settings()

    def grids(self) -> Layout:
        """The checked layout.

        Raises:
            LayoutError: the grids overlap in part, leave a gap, or need what megatron-core lacks.
        """
        return _layout(tuple(self.modules.items()))

    @property
    def modules(self) -> dict[str, GridTable]:
        """The grids as they were written, by module."""
        tables = {"vision": self.vision, "audio": self.audio, **self.encoders, "language": self.language}
        return {module: table for module, table in tables.items() if table is not None}

    def swapped(self) -> LayoutTable:
        """Return these ranks, tensor-parallel where this is data-parallel and the other way round; not checked."""
        own = {"vision": self.vision, "audio": self.audio, "language": self.language}
        swapped = {name: table.swapped() for name, table in own.items() if table is not None}
        encoders = {name: table.swapped() for name, table in self.encoders.items()}
        return self.model_copy(update={**swapped, "encoders": encoders})


@lru_cache(maxsize=1 << 14)
def _layout(tables: tuple[tuple[str, GridTable], ...]) -> Layout:
    """The checked layout of these grids; worked out once, as many layouts of a scenario differ in settings alone."""
    grids = {}
    for module, table in tables:
        try:
            grids[module] = table.grid()
        except LayoutError as error:
            raise LayoutError(f"{module}.{error}") from None
    return Layout(modules=grids)
