"""The house: fourteen rooms that meet through the names they list."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mimo_bench"
ROOMS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}


def imports_between_rooms() -> Iterator[tuple[Path, str, str]]:
    """Yield file, module and name of every import from another room."""
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mimo_bench."):
                module = str(node.module)
                if module.split(".")[1] != own:
                    yield from ((path.relative_to(PACKAGE), module, alias.name) for alias in node.names)


def test_the_package_has_fourteen_rooms_and_no_flat_modules() -> None:
    assert len(ROOMS) == 14
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_rooms_import_only_names_that_another_room_lists() -> None:
    listed = {room: set(import_module(f"mimo_bench.{room}").__all__) for room in ROOMS}
    past_the_door = [
        (str(path), module, name)
        for path, module, name in imports_between_rooms()
        if module.count(".") > 1 or name not in listed[module.split(".")[1]]
    ]
    assert past_the_door == []


def test_every_listed_name_is_there() -> None:
    for room in ROOMS:
        names = import_module(f"mimo_bench.{room}").__all__
        assert [name for name in names if not hasattr(import_module(f"mimo_bench.{room}"), name)] == []
