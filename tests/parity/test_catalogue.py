"""Faults are found by name, and planted where they were asked for."""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from mimo_bench.parity.faults import catalogue as planting
from mimo_bench.parity.faults.catalogue import KNOWN, SLOW, Planting, find_fault, known_faults
from mimo_bench.util.errors import FaultError

REPOSITORY = Path(__file__).parents[2]
DOUBLED = "mimo_bench.parity.faults.passes:bridge_gradient_doubled"


@pytest.fixture
def other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that brings two faults, one under a name of ours."""
    theirs = EntryPoints(
        EntryPoint(name=name, value=f"theirs.faults:{name.replace('-', '_')}", group=group)
        for name, group in (
            ("lost-image", "mimo_bench.faults"), ("kill-rank", "mimo_bench.faults"), ("clip", "mimo_bench.providers"),
        )
    )  # fmt: skip
    monkeypatch.setattr(planting, "entry_points", theirs.select)


def test_every_known_fault_is_a_function_where_its_place_says() -> None:
    assert {"bridge-gradient-doubled", "exhaust-memory", "hang-rank", "kill-rank"} <= set(known_faults())
    for place in known_faults().values():
        module, _, function = place.partition(":")
        # Read, not imported: that would bring in all of megatron-core.
        file = REPOSITORY.joinpath(*module.split(".")).with_suffix(".py")
        body = ast.parse(file.read_text(encoding="utf-8")).body
        assert function in {part.name for part in body if isinstance(part, ast.FunctionDef)}


def test_a_fault_is_declared_above_its_function_and_nowhere_else() -> None:
    declared = {
        part.name.replace("_", "-")
        for file in (REPOSITORY / "mimo_bench" / "parity" / "faults").glob("*.py")
        for part in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(part, ast.FunctionDef) and "@fault(" in "".join(f"@{ast.unparse(d)}" for d in part.decorator_list)
    }
    assert declared == {*KNOWN, *SLOW}
    elsewhere = [
        str(file)
        for room in ("bench", "parity", "report")
        for file in (REPOSITORY / "mimo_bench" / room).rglob("*.py")
        if any(name in file.read_text(encoding="utf-8") for name in declared)
    ]
    assert elsewhere == []


def test_a_fault_lies_where_its_name_says() -> None:
    assert find_fault("bridge-gradient-doubled") == DOUBLED


@pytest.mark.usefixtures("other_package")
def test_an_unknown_fault_is_refused_with_the_names_of_all_others() -> None:
    with pytest.raises(FaultError) as refused:
        find_fault("bridge-gradient-trebled")
    complaint, _, names = str(refused.value).partition("; use one of ")
    assert complaint == "no fault is called 'bridge-gradient-trebled'"
    assert names.split(", ") == sorted(known_faults())
    assert {"bridge-gradient-doubled", "lost-image"} < set(names.split(", "))


@pytest.mark.usefixtures("other_package")
def test_another_package_can_bring_a_fault() -> None:
    assert find_fault("lost-image") == "theirs.faults:lost_image"
    assert Planting.of("lost-image@a").in_layout("a") == "theirs.faults:lost_image"
    with pytest.raises(FaultError, match="no fault is called 'clip'"):
        find_fault("clip")


@pytest.mark.usefixtures("other_package")
def test_another_package_cannot_replace_a_fault_of_ours() -> None:
    assert find_fault("kill-rank") == "mimo_bench.parity.faults.ends:kill_rank"


def test_nothing_is_planted_in_a_normal_run() -> None:
    planted = Planting.of(None)
    assert (planted.fault, planted.layout, planted.in_layout("a")) == (None, None, None)


def test_a_fault_alone_is_planted_in_every_layout() -> None:
    planted = Planting.of("bridge-gradient-doubled")
    assert (planted.layout, planted.in_layout("a"), planted.in_layout("b")) == (None, DOUBLED, DOUBLED)


def test_a_fault_at_a_layout_is_planted_there_alone() -> None:
    planted = Planting.of("bridge-gradient-doubled@vision-dp2--language-tp2")
    assert planted.layout == "vision-dp2--language-tp2"
    assert planted.in_layout("vision-dp2--language-tp2") == DOUBLED
    assert planted.in_layout("vision-dp2") is None


def test_the_fault_before_the_layout_must_be_known() -> None:
    with pytest.raises(FaultError, match="no fault is called 'kill'"):
        Planting.of("kill@a")


def test_a_layout_left_out_after_the_at_is_refused_and_not_taken_for_all() -> None:
    with pytest.raises(FaultError, match="'kill-rank@' names no layout after the @"):
        Planting.of("kill-rank@")
