"""Known faults, each planted at run time in one place, so that the gate can prove that it catches them.

A fault is a callable `plant(context)`, called in every rank of the layout under test after the trainer is built and
before its first step. They lie in one file for each kind of thing that they break; `planting` says which.
"""

from __future__ import annotations

from mimo_bench.parity.faults.context import FaultContext, replace_attribute

__all__ = ["FaultContext", "replace_attribute"]
