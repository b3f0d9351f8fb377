"""What a scenario says about its samples: by name or by table, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from mimo_bench.data.config import Data, SyntheticData
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.util.errors import ScenarioError

SCENARIO = """
question = "Is it?"
model = "llava-tiny"
global_batch_size = 8
global_micro_batch_size = 4
seq_length = 64
baseline = "base"
{data}

[[layout]]
name = "base"
vision = {{}}
language = {{}}
"""


def load(tmp_path: Path, data: str) -> Scenario:
    path = tmp_path / "case.toml"
    path.write_text(SCENARIO.format(data=data), encoding="utf-8")
    return load_scenario(path)


def complaint(tmp_path: Path, data: str) -> str:
    with pytest.raises(ScenarioError, match=r"case\.toml: ") as caught:
        load(tmp_path, data)
    return str(caught.value).partition("case.toml: ")[2]


def test_a_name_stands_for_the_table_that_it_names(tmp_path: Path) -> None:
    assert load(tmp_path, "").data == load(tmp_path, 'data = "synthetic"').data == SyntheticData()
    spelled_out = load(tmp_path, '[data]\nprovider = "synthetic"\nshortest_text = 1.0')
    assert load(tmp_path, 'data = "synthetic-filled"') == spelled_out
    assert load(tmp_path, 'data = "synthetic-filled"').content_hash == spelled_out.content_hash
    assert load(tmp_path, "").content_hash != spelled_out.content_hash


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('data = "synthetc"', "data: 'synthetc': is not known; did you mean 'synthetic'?"),
        ("data = 5", "data: 5: names no provider; write one"),
        ("data = { }", "data: names no provider; write one"),
        ('data = { provider = "synthetc" }', "data: provider: 'synthetc' is not known; did you mean 'synthetic'?"),
        (
            'data = { provider = "synthetic", text_only = 0.5 }',
            "data.text_only: unknown key; remove it, or did you mean 'text_only_share'?",
        ),
        (
            'data = { provider = "synthetic", text_only_share = 1.5 }',
            "data.text_only_share: 1.5: should be less than or equal to 1",
        ),
        (
            'data = { provider = "synthetic", length_skew = 0.0 }',
            "data.length_skew: 0.0: should be greater than 0",
        ),
        (
            'data = { provider = "synthetic", items_per_sample = { vision = [1, -1] } }',
            "data.items_per_sample.vision.1: -1: should be greater than or equal to 0",
        ),
        (
            'data = { provider = "synthetic", items_per_sample = { vision = [0, 0] } }',
            "data.items_per_sample: vision: gives no number of items any weight; use [0, 1]",
        ),
        (
            'data = { provider = "synthetic", items_per_sample = { visoin = [1] } }',
            "data.items_per_sample: 'visoin' is no encoder; did you mean 'vision'?",
        ),
        (
            'data = { provider = "synthetic", items_per_sample = { vision = [1, 0, 0, 0, 1] } }',
            "seq_length = 64: the fullest samples have items that take 64 positions, and their text needs 8 more",
        ),
    ],
)
def test_a_wrong_workload_is_named_with_its_remedy(tmp_path: Path, data: str, expected: str) -> None:
    assert complaint(tmp_path, data).startswith(expected)


def test_the_schema_takes_a_name_or_a_table() -> None:
    schema = Scenario.model_json_schema()
    data = str(schema["properties"]["data"])
    assert "synthetic-filled" in data
    assert "#/$defs/SyntheticData" in data
    described = schema["$defs"]["SyntheticData"]["properties"]["text_only_share"]["description"]
    assert described == "The share of samples that have no item for any encoder."


def test_a_workload_says_again_what_the_file_said(tmp_path: Path) -> None:
    data = '[data]\nprovider = "synthetic"\nitems_per_sample = { vision = [1, 2.5] }\ntext_only_share = 0.25'
    loaded = load(tmp_path, data)
    assert Scenario.model_validate_json(loaded.model_dump_json()) == loaded
    assert TypeAdapter(Data).validate_python(tomllib.loads(data)["data"]) == loaded.data


def test_counts_vary_where_samples_may_differ_in_items() -> None:
    assert not SyntheticData().counts_vary
    assert not SyntheticData(items_per_sample={"vision": (0.0, 0.0, 2.0)}).counts_vary
    assert not SyntheticData(text_only_share=1.0).counts_vary
    assert SyntheticData(items_per_sample={"vision": (1.0, 1.0)}).counts_vary
    assert SyntheticData(text_only_share=0.5).counts_vary


def test_compiled_layers_are_refused_where_samples_differ_in_images(tmp_path: Path) -> None:
    compiled = SCENARIO.replace("language = {{}}", "language = {{}}\nsettings = {{ compile_layers = true }}")
    for share, is_refused in ((0.0, False), (0.5, True)):
        path = tmp_path / "case.toml"
        path.write_text(compiled.format(data=f'data = {{ provider = "synthetic", text_only_share = {share} }}'))
        if is_refused:
            with pytest.raises(
                ScenarioError, match=r"layout 'base': settings.compile_layers: layers are compiled anew"
            ):
                load_scenario(path)
        else:
            load_scenario(path)
