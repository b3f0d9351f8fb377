"""Replaced parts of megatron-core are all in the list that docs/contributing/megatron.md is made from."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.trainer.megatron import REPLACED

REPOSITORY = Path(__file__).parents[2]
ROOMS = ("trainer", "models")
"""Rooms that build and train; meters and faults put back whatever they replace."""


def found(name: str) -> Any:
    """Return what a full name stands for."""
    parts = name.removesuffix(".*").split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: Any = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            value = getattr(value, part)
        return value
    raise AssertionError(f"{name} is nowhere")


def imported(tree: ast.AST) -> dict[str, str]:
    """Return what a file imports from torch and megatron-core: full names by local name."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0]: alias.name.split(".")[0] for alias in node.names}
    return {local: full for local, full in names.items() if full.split(".")[0] in ("megatron", "torch")}


def replaces(node: ast.AST, names: dict[str, str]) -> bool:
    """Return whether a statement changes something that was imported from torch or megatron-core."""

    def is_foreign(target: ast.AST) -> bool:
        while isinstance(target, ast.Attribute):
            target = target.value
        return isinstance(target, ast.Name) and target.id in names

    match node:
        case ast.Assign(targets=targets):
            # Switches of torch are no replacement.
            return any(
                isinstance(target, ast.Attribute) and is_foreign(target) and "backends" not in ast.unparse(target)
                for target in targets
            )
        case ast.Call(func=ast.Name(id="setattr"), args=[target, *_]):
            return is_foreign(target)
        case ast.Call(func=ast.Attribute(attr=name) as function):
            return name.startswith("_set_global") and is_foreign(function)
    return False


def replacements(path: Path) -> Iterator[str]:
    """Yield the full name of every function and class of a file that replaces a part of torch or megatron-core."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = imported(tree)
    module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [names.get(base.id, "") for base in node.bases if isinstance(base, ast.Name)]
            if any(base.startswith("megatron.") for base in bases):
                yield f"{module}.{node.name}"
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and any(replaces(inner, names) for inner in ast.walk(node)):
            yield f"{module}.{node.name}"


def test_no_part_of_megatron_core_is_replaced_without_a_row() -> None:
    files = [path for room in ROOMS for path in sorted((REPOSITORY / "mimo_bench" / room).rglob("*.py"))]
    made = {name for path in files for name in replacements(path)}
    assert made - {row.by for row in REPLACED} == set()
    assert len(made) >= 18


@pytest.mark.parametrize("row", REPLACED, ids=lambda row: row.by.rpartition(".")[2])
def test_both_ends_of_a_row_are_there(row: Any) -> None:
    assert found(row.by) is not None
    assert found(row.of) is not None or row.of.endswith("_GLOBAL_MEMORY_BUFFER")


def test_a_new_replacement_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.trainer.test_replaced.REPOSITORY", tmp_path)
    (tmp_path / "new.py").write_text(
        "from megatron.core.transformer import mlp\n"
        "from megatron.core.transformer.mlp import MLP\n"
        "class Wide(MLP): ...\n"
        "def install():\n    mlp.bias_swiglu_impl = print\n"
        "def harmless(value):\n    value.other = 1\n",
        encoding="utf-8",
    )
    assert list(replacements(tmp_path / "new.py")) == ["new.Wide", "new.install"]
