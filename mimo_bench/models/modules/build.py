"""Rank that a provider builds a module for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig

from mimo_bench.layout import Layout, Precision, Settings
from mimo_bench.models.modules.config import transformer_config


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """One module on one rank."""

    module: str
    """Its name in the layout."""
    layout: Layout
    settings: Settings
    precision: Precision
    pg_collection: ProcessGroupCollection | None
    """The module's process groups; None on ranks that do not host it, where a spec is made and nothing built."""
    is_first_stage: bool
    is_last_stage: bool
    """Whether this rank holds the module's first, or last, pipeline stage."""

    def config(self, **shape: Any) -> TransformerConfig:
        """megatron-core's configuration of the module, with the fields that its shape decides."""
        return transformer_config(
            self.module, layout=self.layout, settings=self.settings, precision=self.precision, **shape
        )
