"""What a mutant is: one call of a collective in a training step, and what is done to it. No torch.

`collectives` plants them; `mutation` runs them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

How = Literal["skip", "double", "wrong group"]

PLACE = "mimo_bench.parity.faults.collectives:mutate"
SURVEY = "mimo_bench.parity.faults.collectives:survey"


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
    is_repeatable: bool
    """Whether it gives the same when it is made twice: it copies, takes a maximum, or writes nothing that it reads."""


class Mutant(BaseModel):
    """One call, broken."""

    model_config = ConfigDict(frozen=True)

    call: Call
    how: How

    @property
    def place(self) -> str:
        """What to plant, as a fault."""
        return f"{PLACE}:{self.model_dump_json()}"

    @property
    def bug(self) -> tuple[str, str, str, str]:
        """What makes it the same mutant in every layout: the line, what it calls and on which groups, and the break."""
        return self.call.role, self.call.collective, self.call.site, self.how


def mutants_of(calls: Iterable[Call]) -> list[Mutant]:
    """Every mutant of these calls that could change anything.

    Left out as equal by construction: a group of one rank without its call, or with two of them, and what is repeatable
    when it is made twice.
    """
    found = []
    for call in sorted(calls, key=lambda call: (call.role, call.site, call.collective)):
        if call.size > 1:
            found.append(Mutant(call=call, how="skip"))
            if not call.is_repeatable:
                found.append(Mutant(call=call, how="double"))
        found.append(Mutant(call=call, how="wrong group"))
    return found
