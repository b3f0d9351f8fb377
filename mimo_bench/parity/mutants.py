"""What a mutant is: one call of a collective in a training step, and what is done to it. No torch.

`collectives` plants them; `mutation` runs them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

How = Literal["skip", "double", "wrong group"]

PLACE = "mimo_bench.parity.collectives:mutate"
SURVEY = "mimo_bench.parity.collectives:survey"

MOVES_ONCE = ("broadcast", "all_gather", "all_gather_into_tensor", "_all_gather_base")
"""Collectives that give the same when they are made twice: they copy, and reading a copy changes nothing."""


class Call(BaseModel):
    """One place that calls one collective on the groups of one role."""

    model_config = ConfigDict(frozen=True)

    collective: str
    role: str
    """`language.tp`, `bridge.vision->language`, ...; `world` for all ranks."""
    site: str
    """File, function and line."""
    size: int
    """Ranks of the group."""


class Mutant(BaseModel):
    """One call, broken."""

    model_config = ConfigDict(frozen=True)

    call: Call
    how: How

    @property
    def place(self) -> str:
        """What to plant, as a fault."""
        return f"{PLACE}:{self.model_dump_json()}"


def mutants_of(calls: Iterable[Call]) -> list[Mutant]:
    """Every mutant of these calls that could change anything.

    Left out as equal by construction: whatever is done within a group of one rank, but for a group that is wrong, and
    a copy that is made twice.
    """
    found = []
    for call in sorted(calls, key=lambda call: (call.role, call.site, call.collective)):
        if call.size == 1:
            continue
        found.append(Mutant(call=call, how="skip"))
        if call.collective not in MOVES_ONCE:
            found.append(Mutant(call=call, how="double"))
        found.append(Mutant(call=call, how="wrong group"))
    return found
