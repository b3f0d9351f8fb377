"""A model family is a folder: no other code names one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.layout import Grid, Settings
from mimo_bench.models import PRESETS, ModelShape, stage_parameters
from mimo_bench.models.parameters import parameters, unknown_modules
from mimo_bench.predict.activations import activation_bytes
from mimo_bench.scenario import Training

PACKAGE = Path(__file__).parents[2] / "mimo_bench"
RECIPE = PACKAGE.parent / "docs" / "contributing" / "family.md"
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
        if unknown_modules(shape) or len(shape.encoders) > 1:
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


def test_the_recipe_makes_a_family_that_is_counted_predicted_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", RECIPE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "strip_shape.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    strip: Any = import_module("strip_shape").StripShape()
    shape: ModelShape = replace(PRESETS["llava-tiny"], vision=strip)
    assert unknown_modules(shape) == ()

    # Strips 64 x 32; a layer: two norms of 128, projections 12,480 and 4,160, MLP 8,320 and 8,256; projector 8,320.
    assert _count(shape, Grid(), stage=0) == 2048 + 4 * 33_472 + 8320
    # Half the layers, and of each half of all but norms and the biases of its two row-parallel products.
    assert _count(shape, Grid(tp=2, pp=2), stage=0) == 2048 + 2 * (256 + 6240 + 2112 + 4160 + 4160)
    # Forward and weights of the strips; forward and backward of the layers.
    layers = 4 * (8 * 2 * (4 * 64**2 + 2 * 64 * 128) + 4 * 8**2 * 64)
    assert strip.flops_per_item(is_trained=True) == 2 * (8 * 2 * 32 * 64) + 3 * layers
    kept = _kept_bytes(shape)
    # Math attention in fp32: a layer keeps 4h + 4h + 2f elements a position, and a score of each head and pair.
    layer = 2 * 8 * (8 * 64 + 2 * 128) * 4 + 2 * 4 * 8 * 8 * 4
    # Before the layers h; the projector its input, two products and output.
    assert kept == 4 * layer + 2 * 8 * 64 * 4 + 2 * 8 * 4 * 64 * 4
    names = {part.name for row in parameters(shape) for part in row.parts if part.component == "vision_tower"}
    assert {"embed.weight", "layers.3.attn.q.bias", "layers.0.mlp.down.weight"} <= names


def _count(shape: ModelShape, grid: Grid, *, stage: int) -> int:
    return sum(one.num_elements for one in stage_parameters(shape, "vision", grid, stage=stage))


def _kept_bytes(shape: ModelShape) -> int:
    found = activation_bytes(
        shape,
        "vision",
        Grid(),
        stage=0,
        num_items=2,
        seq_length=64,
        settings=Settings(attention="math"),
        precision="fp32",
        training=Training(),
    )
    assert found is not None
    return found.kept
