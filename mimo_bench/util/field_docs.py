"""Descriptions of a model's fields: the docstring under each, read from the source on demand.

Only `mimo-bench schema` and the report's definitions ask. pydantic's own `use_attribute_docstrings` parses the source
of every model whenever it is imported, also for `mimo-bench check`, which must answer at once.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from textwrap import dedent

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Described:
    """Mixed into a model: in its JSON Schema, the docstring under a field is the field's description."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema that pydantic makes, with descriptions."""
        assert issubclass(cls, BaseModel)
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, said in descriptions(cls).items():
            if name in properties:
                properties[name]["description"] = said
        return schema


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings of the fields of `model` by name, inherited ones included."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            found |= _docstrings(kind)
    return {name: said for name, said in found.items() if name in model.model_fields}


def _docstrings(kind: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Every annotated name in the body of a class that a string follows, and the string."""
    (definition,) = ast.parse(dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    for statement, following in pairwise(definition.body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                yield name, inspect.cleandoc(said)
