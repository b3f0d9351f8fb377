"""Definitions of the numbers in the report, in the words of the code that computes them.

A field's docstring in the schema, or the docstring of the function that computes it, is the
definition; the report prints it and has no wording of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator

from pydantic import BaseModel

from mimo_bench.models import mfu, model_flops
from mimo_bench.record import (
    Communication,
    Comparing,
    Energy,
    EvaluationResult,
    Launch,
    Loading,
    MemoryParts,
    ModuleMemory,
    ModuleTiming,
    Parity,
    RankAccount,
    Ranked,
    RankMemory,
    Timing,
    imbalance,
)
from mimo_bench.report.skew import skew_seconds
from mimo_bench.util import descriptions

Definition = tuple[str, str]
"""A name as the record spells it, and what it means."""


def of_fields(prefix: str, entry: type[BaseModel]) -> Iterator[Definition]:
    """The documented fields of one part of the record."""
    said = descriptions(entry)
    for name in entry.model_fields:
        if name in said:
            yield f"{prefix}.{name}", " ".join(said[name].split())


def of_functions(functions: Iterable[Callable[..., object]]) -> Iterator[Definition]:
    """Functions that each compute one quantity: name, and what the docstring says before its arguments."""
    for function in functions:
        if documentation := inspect.getdoc(function):
            yield function.__name__, " ".join(documentation.partition("\n\n")[0].split())


DEFINITIONS: tuple[Definition, ...] = (
    *of_fields("parity", Parity),
    *of_fields("timing", Timing),
    *of_fields("timing.modules", ModuleTiming),
    *of_functions([model_flops, mfu]),
    *of_fields("ranking", Ranked),
    *of_fields("memory.modules", ModuleMemory),
    *of_fields("memory.ranks", RankMemory),
    *of_fields("memory.ranks.parts", MemoryParts),
    *of_fields("comparing", Comparing),
    *of_fields("loading", Loading),
    *of_functions([imbalance, skew_seconds]),
    *of_fields("communication", Communication),
    *of_fields("account.ranks", RankAccount),
    *of_fields("energy", Energy),
    *of_fields("launches", Launch),
    *of_fields("evaluation", EvaluationResult),
)
"""In the order in which the report shows the numbers."""
