"""Checks of what a script gives to a training, by the annotations of its arguments. No torch."""

from __future__ import annotations

import re
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mimo_bench.layout import WITHOUT_FP16
from mimo_bench.util import UsageError, choices

_KINDS = {
    "Path": "pathlib.Path",
    "ModelShape": "ModelShape, such as mimo_bench.models.PRESETS['llava-tiny']",
    "Training": "Training, such as mimo_bench.scenario.Training(learning_rate=1e-4)",
    "Settings": "Settings, such as mimo_bench.layout.Settings(fused_optimizer=True)",
    "LoaderTable": "LoaderTable, such as mimo_bench.scenario.LoaderTable(num_workers=4)",
    "Logging": "Logging, such as mimo_bench.trainer.Logging(every=10)",
    "Validation": "Validation, such as Validation(every=10, num_batches=1)",
    "Saving": "Saving, such as Saving(directory=Path('checkpoints'))",
    "Layout": "Layout, such as Layout(modules={'vision': Grid(), 'language': Grid()})",
    "RankDevice": "RankDevice, such as what join('auto') gives",
    "str": "str, such as a digest of the files that samples are read from",
}
"""Remedies for a value of another class, by the name of the class."""


def check_fields(arguments: object, prefix: str = "") -> None:
    """Check every field of a dataclass by its annotation, strictly.

    Raises:
        UsageError: with the field's name after `prefix`, value and remedy.
    """
    for name, kind in get_type_hints(type(arguments), include_extras=True).items():
        check_argument(f"{prefix}{name}", getattr(arguments, name), kind)


def check_argument(name: str, value: object, kind: Any) -> None:
    """Check a value by an annotation, strictly: nothing is converted.

    Raises:
        UsageError: with name, value and remedy.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise UsageError(f"{name} = {value!r}: {_remedy(error.errors()[0], adapter)}") from None


def _remedy(problem: Any, adapter: TypeAdapter[Any]) -> str:
    match problem["type"]:
        case "is_instance_of":
            return f"give a {_KINDS[problem['ctx']['class']]}"
        case "literal_error":
            given = str(problem["input"])
            known = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
            return WITHOUT_FP16 if given == "fp16" and "bf16" in known else choices(given, known)
        case "int_type" | "greater_than_equal":
            schema = adapter.json_schema()
            least = next(part["minimum"] for part in schema.get("anyOf", [schema]) if "minimum" in part)
            return f"give a whole number of at least {least}"
        case _:
            return str(problem["msg"]).replace("Input should be", "give")
