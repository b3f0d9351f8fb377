"""Types and the base class that every part of the record shares."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mimo_bench.util import Described

SCHEMA_VERSION: Final = 1

Status = Literal["passed", "parity_failed", "unjudged", "oom", "timeout", "crashed", "interrupted", "not_run"]
Mode = Literal["parity", "timing", "comm"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]

_NOT_KEPT: Final = set[str]()


class Entry(Described, BaseModel):
    """Base of every part of the record: frozen, strict about types, open to fields of later writers."""

    # A number that is unknown by mistake shows when it is written, instead of becoming null.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, ser_json_inf_nan="constants")

    def model_post_init(self, context: Any) -> None:
        """Drop the set of given fields: nothing reads it, and one for each of a million entries takes a gigabyte."""
        object.__setattr__(self, "__pydantic_fields_set__", _NOT_KEPT)
