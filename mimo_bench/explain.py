"""What pydantic found wrong with a TOML file, in the words of that file: key, value, remedy.

scenario -> layout -> ...: `load_scenario` uses it, so that nobody has to know pydantic to mend a scenario.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from mimo_bench.suggest import choices

LONGEST_VALUE = 80
"""A wrong value is shown up to this many characters."""


def explain(problem: ErrorDetails, *, content: dict[str, Any], root: type[BaseModel]) -> str:
    """One problem of `content` held against the model `root`, as "where: value: remedy"."""
    location = problem["loc"]
    place, key = _place(location, content)
    where = place + (f"{key}: " if key else "")
    match problem["type"]:
        case "extra_forbidden":
            fields = _table_at(root, location[:-1]).model_fields
            known = [name for name, field in fields.items() if field.exclude_if is None]  # others are not for files
            return f"{where}unknown key; remove it, or {choices(str(location[-1]), known)}"
        case "missing":
            return f"{where}is missing; add it"
        case "tuple_type":
            return f"{where}is no list of tables; write [[{key}]] above each, with two brackets"
        case "model_type":
            return f"{where}{_shown(problem['input'])}is no table; write its keys in braces, {{ key = value }}"
        case "string_pattern_mismatch":
            remedy = "use letters, digits, '.', '_' and '-', beginning with a letter or digit"
            return f"{where}{_shown(problem['input'])}{remedy}"
        case _:
            message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
            return f"{where}{_shown(problem['input'])}{message[:1].lower() + message[1:]}"


def _place(location: Sequence[int | str], content: dict[str, Any]) -> tuple[str, str]:
    """The layout that a problem is in, by name where it has one, and the key inside it."""
    if len(location) < 2 or location[0] != "layout" or not isinstance(location[1], int):
        return "", ".".join(map(str, location))
    table = content["layout"][location[1]]
    name = table.get("name") if isinstance(table, dict) else None
    place = f"layout {name!r}: " if isinstance(name, str) else f"layout number {location[1] + 1}: "
    return place, ".".join(map(str, location[2:]))


def _table_at(table: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel]:
    """The model of the table at `location`, found by following the fields' types."""
    for part in location:
        if isinstance(part, str):
            annotation = table.model_fields[part].annotation
            found = [kind for kind in (annotation, *get_args(annotation)) if _is_table(kind)]
            assert found, f"{part} is no table, so pydantic cannot have looked inside"
            table = found[0]
    return table


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _shown(value: Any) -> str:
    """The value as written, where it is short enough to help."""
    if isinstance(value, dict | list):
        return ""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + '...'}: "
