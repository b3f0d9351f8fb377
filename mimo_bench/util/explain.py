"""Tables of a scenario file, and pydantic's complaints about them in the file's own terms: key, value, remedy.

`load_scenario` uses it, so that a user mends a scenario without knowing pydantic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import ErrorDetails

from mimo_bench.util.field_docs import Described
from mimo_bench.util.text import choices

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Table(Described, BaseModel):
    """A table of the file: nothing unknown, nothing coerced, nothing changed later."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


_AS_WRITTEN = {
    "bool_type": "; write true or false, without quotes",
    "int_type": "; write a whole number, without quotes",
    "float_type": "; write a number, without quotes",
    "string_type": "; write it in quotes",
}
"""How TOML has a value of the type that pydantic asks for."""

LONGEST_VALUE = 80
"""A wrong value is shown up to this many characters."""


def explain(problems: Sequence[ErrorDetails], *, content: dict[str, Any], root: type[BaseModel]) -> list[str]:
    """Return the problems of `content` under the model `root`, each as "where: value: remedy"."""
    # A misspelt key is reported once, not as a missing key as well.
    meant = {_meant(problem["loc"], root) for problem in problems if problem["type"] == "extra_forbidden"}
    return [
        _explain(problem, content=content, root=root)
        for problem in problems
        if not (problem["type"] == "missing" and problem["loc"] in meant)
    ]


def _meant(location: tuple[int | str, ...], root: type[BaseModel]) -> tuple[int | str, ...]:
    """Return the location of the known key nearest to the unknown one at `location`; empty if none is near."""
    *table, key = location
    nearest = get_close_matches(str(key), _keys(_table_at(root, table)), n=1)
    return (*table, *nearest) if nearest else ()


def _explain(problem: ErrorDetails, *, content: dict[str, Any], root: type[BaseModel]) -> str:
    location = problem["loc"]
    written = _without_tags(location, root)
    place, key = _place(written, content)
    where = place + (f"{key}: " if key else "")
    match problem["type"]:
        case "extra_forbidden":
            known = _keys(_table_at(root, location[:-1]))
            return f"{where}unknown key; remove it, or {choices(str(location[-1]), known)}"
        case "missing":
            return f"{place}{key} is missing; add it"
        case "union_tag_invalid":
            known = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
            tag = problem["ctx"]["tag"]
            return f"{where}provider: {tag!r} is not known; {choices(tag, known)}"
        case "union_tag_not_found" | "model_attributes_type":
            return f'{where}{_shown(problem["input"])}names no provider; write one, {{ provider = "synthetic" }}'
        case "tuple_type":
            return f"{where}is no list of tables; write [[{key}]] above each, with two brackets"
        case "model_type":
            return f"{where}{_shown(problem['input'])}is no table; write its keys in braces, {{ key = value }}"
        case "string_pattern_mismatch":
            remedy = "use letters, digits, '.', '_' and '-', beginning with a letter or digit"
            # Only layouts' names have a pattern; the place would say the name a second time.
            return f"layout {key} {_shown(problem['input'])}{remedy}"
        case kind:
            message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
            remedy = _meant_word(problem) if kind == "literal_error" else _AS_WRITTEN.get(kind, "")
            return f"{where}{_shown(problem['input'])}{message[:1].lower() + message[1:]}{remedy}"


def _meant_word(problem: ErrorDetails) -> str:
    """The word that a wrong one is near to, of those that the message lists."""
    known = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
    nearest = get_close_matches(str(problem["input"]), known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _place(location: Sequence[int | str], content: dict[str, Any]) -> tuple[str, str]:
    """The layout that a problem is in, by name where it has one, and the key inside it."""
    if len(location) < 2 or location[0] != "layout" or not isinstance(location[1], int):
        return "", ".".join(map(str, location))
    table = content["layout"][location[1]]
    name = table.get("name") if isinstance(table, dict) else None
    place = f"layout {name!r}: " if isinstance(name, str) else f"layout number {location[1] + 1}: "
    return place, ".".join(map(str, location[2:]))


def _without_tags(location: Sequence[int | str], root: type[BaseModel]) -> tuple[int | str, ...]:
    """The location as the file has it: pydantic puts in which of several tables it took a table for."""
    return tuple(
        part
        for index, part in enumerate(location)
        if not (index == 1 and len(_tables(root.model_fields[str(location[0])].annotation)) > 1)
    )


def _tables(annotation: Any) -> list[type[BaseModel]]:
    return [kind for kind in (annotation, *get_args(annotation)) if _is_table(kind)]


def _table_at(table: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel]:
    """The model of the table at `location`, found by following the fields' types."""
    found: list[type[BaseModel]] = [table]
    is_name = False
    for part in location:
        if is_name:
            is_name = False
        elif len(found) > 1:
            found = [kind for kind in found if part in get_args(kind.model_fields["provider"].annotation)]
        elif isinstance(part, str):
            annotation = found[0].model_fields[part].annotation
            # Of tables that the file itself names, the next part is the name.
            found, is_name = _tables(annotation), get_origin(annotation) is Mapping
        assert found, f"{part} is no table, so pydantic cannot have looked inside"
    return found[0]


def _keys(table: type[BaseModel]) -> list[str]:
    """The keys that a file may hold; what is no part of the published schema is filled in by us."""
    return list(table.model_json_schema()["properties"])


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _shown(value: Any) -> str:
    """The value as written, where it is short enough to help."""
    if isinstance(value, dict | list):
        return ""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + '...'}: "
