"""A model family is a folder: no other code names one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from mimo_bench.layout import Grid
from mimo_bench.models import PRESETS, stage_parameters
from mimo_bench.models.parameters import parameters, unknown_encoders

PACKAGE = Path(__file__).parents[2] / "mimo_bench"
FAMILIES = {path.parent.name for path in (PACKAGE / "models").glob("*/shape.py")} | {"llava", "voxtral"}
NAMED = re.compile(
    r"siglip|whisper|llama|mixtral|llava|voxtral|qwen2|mistral|CLIP\b|clip_vision|VisionShape|AudioShape"
)
MAY_NAME = {"models/registry.py", "models/presets.py"}
ALLOWED = {
    # The rotary scaling that a checkpoint calls llama3 is a formula, not a family.
    "_llama3",
    "Llama3Rope",
    "mimo_bench.models.llama.shape",
    # The list of replaced parts of megatron-core gives full names.
    "mimo_bench.models.llama.module.LanguageModel",
}


def code_words(path: Path) -> Iterator[str]:
    """Yield identifiers, imported names and strings, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.alias(name=word):
                yield word
            case ast.FunctionDef(name=word) | ast.ClassDef(name=word):
                yield word
            case ast.Constant(value=str(word)) if id(node) not in strings:
                yield word


def test_no_file_outside_of_its_folder_names_a_family() -> None:
    naming = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        parts = name.split("/")
        if name in MAY_NAME or (parts[0] == "models" and parts[1] in FAMILIES):
            continue
        # A message may show a preset as an example.
        words = {word for word in code_words(path) if NAMED.search(word) and "PRESETS" not in word}
        if words - ALLOWED:
            naming[name] = words
    assert naming == {}


def test_every_family_has_its_fixed_files() -> None:
    for family in FAMILIES:
        files = {path.name for path in (PACKAGE / "models" / family).glob("*.py")}
        assert files <= {"__init__.py", "shape.py", "hf.py", "module.py", "referee.py", "counterpart.py"}, family
        assert "hf.py" in files, family


def test_sizes_on_ranks_and_in_checkpoints_come_from_one_table() -> None:
    for name, shape in PRESETS.items():
        if unknown_encoders(shape) or len(shape.encoders) > 1:
            continue
        rows = parameters(shape)
        for module in shape.modules:
            whole = sum(_size(row.shape) for row in rows if row.module == module)
            alone = sum(one.num_elements for one in stage_parameters(shape, module, Grid(), stage=0))
            assert whole == alone, (name, module)


def _size(dims: tuple[int, ...]) -> int:
    size = 1
    for dim in dims:
        size *= dim
    return size
