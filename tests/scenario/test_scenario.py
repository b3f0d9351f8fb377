"""A scenario file that is wrong is refused with the file, the key or layout, the value and the remedy."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.util.errors import LayoutError, ScenarioError

HEAD = """
question = "Is it?"
model = "llava-tiny"
seed = 0
global_batch_size = 8
global_micro_batch_size = 4
seq_length = 48
baseline = "base"
"""
BASE = """
[[layout]]
name = "base"
vision = { dp = 2 }
language = { dp = 2 }
"""
SPLIT = """
[[layout]]
name = "split"
vision = { dp = 2 }
language = { tp = 2, rank_offset = 2 }
"""
GOOD = HEAD + BASE + SPLIT

Load = Callable[[str], Scenario]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write a scenario's text to a file and load that."""

    def write_and_load(text: str) -> Scenario:
        path = tmp_path / "case.toml"
        path.write_text(text, encoding="utf-8")
        return load_scenario(path)

    return write_and_load


def changed(old: str, new: str) -> str:
    """The good scenario with one place changed."""
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def complaint(load: Load, text: str) -> str:
    """What is said about a wrong scenario; it always begins with the file."""
    with pytest.raises(ScenarioError) as caught:
        load(text)
    message = str(caught.value)
    assert all("case.toml: " in line for line in message.splitlines())
    return message


def test_seed_zero_is_a_seed(load: Load) -> None:
    assert load(GOOD).seed == 0
    assert load(changed("seed = 0", "seed = 7")).seed == 7


def test_a_layout_may_have_its_own_micro_batch(load: Load) -> None:
    scenario = load(changed('name = "split"', 'name = "split"\nglobal_micro_batch_size = 2'))
    assert scenario.case("base").plan.num_micro_batches == 2
    assert scenario.case("split").plan.num_micro_batches == 4


def test_the_hash_is_of_what_the_file_says_not_how(load: Load) -> None:
    spelled_out = changed("vision = { dp = 2 }", "vision = { dp = 2, tp = 1 }") + "# a comment\n"
    assert load(spelled_out).content_hash == load(GOOD).content_hash
    assert load(changed("seed = 0", "seed = 1")).content_hash != load(GOOD).content_hash


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seed = 0", "sed = 0", "sed: unknown key; remove it, or did you mean 'seed'?"),
        ("seed = 0", "seed = 0\nzzz = 1", "zzz: unknown key; remove it, or use one of question, model"),
        (
            "seed = 0",
            'training = { learning_rate = "fast" }',
            "training.learning_rate: 'fast': should be a valid number; write a number, without quotes",
        ),
        ("seed = 0", 'loader = { num_workers = "2" }', "'2': should be a valid integer; write a whole number, without"),
        ('model = "llava-tiny"', "model = 3", "model: 3: should be a valid string; write it in quotes"),
        (
            "vision = { dp = 2 }",
            'vision = { dp = 2 }\nsettings = { fused_optimizer = "yes" }',
            "settings.fused_optimizer: 'yes': should be a valid boolean; write true or false, without quotes",
        ),
        (
            "vision = { dp = 2 }",
            'vision = { dp = 2 }\nsettings = { attention = "flsh" }',
            "settings.attention: 'flsh': should be 'default', 'math', 'flash' or 'cudnn'; did you mean 'flash'?",
        ),
        ("seed = 0", "seed = -1", "seed: -1: should be greater than or equal to 0"),
        ("seed = 0", "seed = 1.5", "seed: 1.5: should be a valid integer"),
        ("seed = 0", "seed = true", "seed: true: should be a valid integer"),
        ("seed = 0", 'seed = "0"', "seed: '0': should be a valid integer"),
        ("seed = 0", 'precision = "fp8"', "precision: 'fp8': should be 'fp32' or 'bf16'"),
        ("seed = 0", 'precision = "fp16"', "precision: 'fp16': megatron-core 0.19 scales the loss for each module"),
        ("seed = 0", "steps = 5", "steps: 5: is no table; write its keys in braces"),
        ("seed = 0", "steps = { parity = 0 }", "steps.parity: 0: should be greater than or equal to 2"),
        ("seed = 0", "steps = { parity = 1 }", "steps.parity: 1: a single step shows nothing of learning rates"),
        ("seed = 0", "steps = { timde = 5 }", "steps.timde: unknown key; remove it, or did you mean 'timed'?"),
        ("seed = 0", "training = { learning_rate = nan }", "training.learning_rate: nan: should be a finite number"),
        ("seed = 0", "training = { learning_rate = inf }", "training.learning_rate: inf: should be a finite number"),
        ("seed = 0", "training = { learning_rate = -1.0 }", "training.learning_rate: -1.0: should be greater than"),
        ("seed = 0", "training = { adam_beta1 = nan }", "training.adam_beta1: nan: should be"),
        ("seed = 0", "training = { adam_epsilon = 0.0 }", "training.adam_epsilon: 0.0: should be greater than 0"),
        ("seed = 0", 'wieghts = "ours"', "wieghts: unknown key; remove it, or did you mean 'weights'? Known: question"),
        # The table below it is one that the file names itself.
        (
            "seed = 0",
            "training = { module_schedules = { vision = { warmpu_steps = 2 } } }",
            "training.module_schedules.vision.warmpu_steps: unknown key; remove it, or did you mean 'warmup_steps'?",
        ),
        (
            "seed = 0",
            "encoders = { depth = { tokn_id = 9 } }",
            "encoders.depth.tokn_id: unknown key; remove it, or did",
        ),
        ("global_batch_size = 8", "", "case.toml: global_batch_size is missing; add it"),
        (
            "global_batch_size = 8",
            "global_batch_size = 0",
            "global_batch_size: 0: should be greater than or equal to 1",
        ),
        ('"llava-tiny"', '"lava-tiny"', "model: 'lava-tiny' is not known; did you mean 'llava-tiny'?"),
        ('baseline = "base"', 'baseline = "bass"', "baseline: 'bass' is no layout; did you mean 'base'?"),
        ('name = "split"', 'name = "base"', "layout: the name 'base' is used twice; give each layout its own"),
        ('name = "split"', 'name = "../split"', "case.toml: layout name '../split': use letters, digits"),
        ('name = "split"', "", "layout number 2: name is missing; add it"),
        ("language = { dp = 2 }", "", "layout 'base': language is missing; add it"),
        (
            "vision = { dp = 2 }",
            "vision = { ddp = 2 }",
            "layout 'base': vision.ddp: unknown key; remove it, or did you",
        ),
        ("vision = { dp = 2 }", "vision = 2", "layout 'base': vision: 2: is no table"),
        ("vision = { dp = 2 }", "vision = { dp = 0 }", "layout 'base': vision.dp: 0: should be greater than or equal"),
        ("rank_offset = 2", "rank_offset = -2", "layout 'split': language.rank_offset: -2: should be greater than"),
        (
            "seq_length = 48",
            "seq_length = 20",
            "seq_length = 20: vision takes 16 positions and the text needs 8 more",
        ),
        ("seq_length = 48", "seq_length = 1024", "seq_length = 1024: the model takes at most 512; use a smaller one"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_remedy(load: Load, old: str, new: str, expected: str) -> None:
    assert expected in complaint(load, changed(old, new))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('provider = "synthetic", lenght_skew = 2.0', "lenght_skew: unknown key; remove it, or did you mean 'length_s"),
        ('provider = "digits", path = "digits"', "path: unknown key; remove it, or use one of provider"),
        (
            'provider = "huggingface", path = "q.csv", procesor = "our-llava"',
            "procesor: unknown key; remove it, or did you mean 'processor'?",
        ),
        ('provider = "huggingface", path = "q.csv", processor = "p", imagess = "q"', "imagess: unknown key; remove it"),
        ('provider = "huggingface", path = "q.csv"', "processor is missing; add it"),
        ('provider = "huggingface", path = 3, processor = "p"', "path: 3: should be a valid string"),
    ],
)
def test_a_wrong_key_of_any_provider_is_named_with_its_remedy(load: Load, data: str, expected: str) -> None:
    said = complaint(load, changed("seed = 0", f"data = {{ {data} }}"))
    assert f"case.toml: data.{expected}" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("vision = { cp = 2 }\nlanguage = { dp = 2 }", "vision.cp = 2: megatron-core 0.19 has no context parallelism"),
        ("vision = { pp = 2 }\nlanguage = { tp = 2 }", "vision.pp = 2: colocated modules cannot be pipelined"),
        (
            "vision = {}\nlanguage = { pp = 2, vpp = 2, rank_offset = 1 }",
            "language: vpp = 2: megatron-core 0.19 .* no vir",
        ),
        (
            "vision = {}\nlanguage = { dp = 2, ep = 2, rank_offset = 1 }",
            "language.ep = 2: this model has no experts to split; use ep = 1",
        ),
        ("vision = { dp = 2, ep = 2 }\nlanguage = { dp = 2 }", "vision.ep = 2: encoders have no experts"),
        ("vision = { tp = 2 }\nlanguage = { pp = 2 }", "language.pp = 2: colocated modules cannot be pipelined"),
        (
            "language = { tp = 2, rank_offset = 2 }",
            "module 'vision' has no grid; the model has vision and language, place each",
        ),
        (
            "vision = { dp = 2 }\nlanguage = { rank_offset = 3 }",
            "language.rank_offset = 3: no module uses rank 2; use rank_offset = 2",
        ),
        (
            "vision = { dp = 2 }\nlanguage = { rank_offset = 1 }",
            "vision on ranks 0-1 and language on rank 1 overlap in part; set language.rank_offset = 2",
        ),
        ("vision = { tp = 3 }\nlanguage = { rank_offset = 3 }", "vision.tp = 3 does not divide attention heads .4."),
        ("vision = {}\nlanguage = { tp = 8, rank_offset = 1 }", "language.tp = 8 does not divide key-value groups .4."),
        (
            "vision = {}\nlanguage = { pp = 3, rank_offset = 1 }",
            "language.pp = 3 does not divide layers .4.; use a div",
        ),
        (
            "vision = { dp = 8 }\nlanguage = { rank_offset = 8 }",
            "global_micro_batch_size = 4 does not split over vision.dp",
        ),
        (
            "vision = {}\nlanguage = {}\nsettings = { overlap_param_gather = true }",
            "settings: overlap_param_gather needs distributed_optimizer",
        ),
    ],
)
def test_a_layout_that_cannot_be_is_named_with_its_remedy(load: Load, layout: str, expected: str) -> None:
    with pytest.raises(ScenarioError, match=f"layout 'bad': {expected}"):
        load(f'{GOOD}\n[[layout]]\nname = "bad"\n{layout}\n')


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (
            "vision = {}\nlanguage = { tp = 2, rank_offset = 1 }",
            "language.tp = 2: experts are trained .* set settings.sequence_parallel = true",
        ),
        (
            "vision = {}\nlanguage = { dp = 4, ep = 3, rank_offset = 1 }",
            r"language.ep = 3: .* use a divisor of tp \* dp = 4",
        ),
        (
            "vision = {}\nlanguage = { dp = 8, ep = 8, rank_offset = 1 }\nglobal_micro_batch_size = 8",
            "language.ep = 8 does not divide experts .4.; use a divisor of 4",
        ),
        (
            "vision = {}\nlanguage = {}\nsettings = { compile_layers = true }",
            "settings.compile_layers: layers are compiled anew for every number of positions that reach an expert",
        ),
    ],
)
def test_what_experts_cannot_is_named_with_its_remedy(load: Load, layout: str, expected: str) -> None:
    experts = HEAD.replace("llava-tiny", "llava-moe-tiny") + BASE
    with pytest.raises(ScenarioError, match=f"layout 'bad': {expected}"):
        load(f'{experts}\n[[layout]]\nname = "bad"\n{layout}\n')


def test_a_degree_that_nobody_set_is_no_part_of_what_a_scenario_says(load: Load) -> None:
    # Older runs of the same scenario have the same hash.
    assert "ep" not in load(GOOD).model_dump(mode="json")["layout"][0]["language"]


def test_a_batch_of_no_whole_number_of_micro_batches_is_a_layout_error(load: Load) -> None:
    with pytest.raises(LayoutError, match="layout 'base': global_batch_size = 10 is no multiple"):
        load(changed("global_batch_size = 8", "global_batch_size = 10"))


def test_a_sequence_that_does_not_split_over_tensor_parallel_ranks_is_refused(load: Load) -> None:
    text = changed("seq_length = 48", "seq_length = 49") + "settings = { sequence_parallel = true }\n"
    assert "layout 'split': settings.sequence_parallel: seq_length = 49 does not split over" in complaint(load, text)


def test_a_disjoint_baseline_is_refused(load: Load) -> None:
    assert "layout 'split': the baseline is disjoint" in complaint(
        load, changed('baseline = "base"', 'baseline = "split"')
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("question =", "qestion =", "qestion: unknown key; remove it, or did you mean 'question'?"),
        ("language = { dp = 2 }", "langage = { dp = 2 }", "layout 'base': langage: unknown key; remove it, or did you"),
    ],
)
def test_a_misspelt_key_is_not_missing_as_well(load: Load, old: str, new: str, expected: str) -> None:
    (line,) = complaint(load, changed(old, new)).splitlines()
    assert expected in line


def test_a_key_is_missing_where_the_unknown_one_means_another_or_stands_elsewhere(load: Load) -> None:
    lines = complaint(load, changed("question =", "zzz =")).splitlines()
    assert [("zzz: unknown key" in line, "question is missing; add it" in line) for line in lines] == [
        (False, True),
        (True, False),
    ]
    near = changed("global_batch_size = 8", "").replace("global_micro_batch_size", "global_micro_batchsize")
    assert "global_batch_size is missing; add it" in complaint(load, near)
    elsewhere = complaint(load, changed('question = "Is it?"', "").replace("tp = 2", "qestion = 2"))
    assert "question is missing; add it" in elsewhere


def test_every_problem_of_a_file_is_told_at_once(load: Load) -> None:
    message = complaint(load, changed("seed = 0", "seed = -1\nfoo = 1").replace("{ dp = 2 }", "{ dp = 0 }"))
    assert len(message.splitlines()) == 5


def test_one_bracket_too_few_is_explained(load: Load) -> None:
    assert "write [[layout]] above each, with two brackets" in complaint(load, HEAD + '[layout]\nname = "base"\n')


def test_a_scenario_without_layouts_is_refused(load: Load) -> None:
    assert "layout is missing; add it" in complaint(load, HEAD)
    assert "layout: holds none; write [[layout]]" in complaint(load, HEAD + "layout = []\n")


def test_a_file_that_is_no_toml_is_named_with_the_line(load: Load) -> None:
    said = complaint(load, "question = \n")
    assert "not valid TOML: " in said
    assert said.endswith("; correct it there")
    assert "line 1" in complaint(load, "question = \n")


def test_a_missing_file_a_directory_and_latin_1_bytes_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"nowhere\.toml: no such file"):
        load_scenario(tmp_path / "nowhere.toml")
    with pytest.raises(ScenarioError, match=f"{re.escape(str(tmp_path))}: is a directory; name a scenario file"):
        load_scenario(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes('question = "d\xe9j\xe0 vu?"'.encode("latin-1"))
    with pytest.raises(ScenarioError, match=r"latin\.toml: byte 13 is not UTF-8; save the file as UTF-8"):
        load_scenario(latin)


def test_an_unknown_layout_name_lists_the_known_ones(load: Load) -> None:
    with pytest.raises(ScenarioError, match=r"no layout is called 'spilt'; did you mean 'split'\? Known: base, split"):
        load(GOOD).table("spilt")


def test_the_shipped_smoke_matrix_holds_every_kind_of_layout() -> None:
    scenario = load_scenario(Path(__file__).parents[2] / "scenarios" / "cpu_smoke.toml")
    worlds = {scenario.table(name).grids().world_size for name in scenario.names}
    assert len(scenario.names) >= 13
    assert worlds == {1, 2, 3, 4, 5, 6, 8}
    assert {scenario.table(name).grids().placement for name in scenario.names} == {"colocated", "disjoint"}


def test_the_schema_describes_what_its_keys_mean() -> None:
    steps = Scenario.model_json_schema()["$defs"]["Steps"]["properties"]
    assert steps["timed"]["description"] == "Steps in the timed window."


def test_a_loaded_scenario_says_again_what_the_file_said(load: Load) -> None:
    again = Scenario.model_validate(load(GOOD).model_dump())
    assert again == load(GOOD)
    assert tomllib.loads(GOOD)["baseline"] == again.baseline


def test_a_thousand_layouts_are_checked_in_less_than_a_second(load: Load) -> None:
    many = "".join(SPLIT.replace("split", f"split-{number}") for number in range(2000))
    started = time.process_time()
    assert len(load(HEAD + BASE + many).names) == 2001
    assert time.process_time() - started < 2.0
