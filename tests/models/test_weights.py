"""Weights from and to `transformers`: every bit survives the round trip, and what is wrong is refused whole."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from mimo_bench.cli import app as cli
from mimo_bench.cli.exits import BUG
from mimo_bench.models import PRESETS, read_model_shape
from mimo_bench.models.hf.config import config_of
from mimo_bench.models.hf.convert import export_weights, import_weights
from mimo_bench.models.hf.directory import check_new, check_shape, read_manifest
from mimo_bench.models.parameters import parameters
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.util.errors import MimoBenchError, WeightsError
from tests.support import oracle
from tests.support.checkpoints import CONFIGS, load, save_random

LLAVAS = ("clip_llama", "siglip_qwen2", "clip_mistral", "clip_mixtral")
FAMILIES = (*LLAVAS, "voxtral")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A random checkpoint of a family as `transformers` saves it, in one file; made once, to be read only."""
    root = tmp_path_factory.mktemp("saved")

    def save(family: str) -> Path:
        if not (place := root / family).exists():
            save_random(CONFIGS / f"{family}.json", place)
            (place / "tokenizer_config.json").write_text('{"pad": 0}', encoding="utf-8")
            (place / "additional_chat_templates").mkdir()
            (place / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}", encoding="utf-8")
        return place

    return save


@pytest.fixture
def checkpoint(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A LLaVA checkpoint to be changed."""
    return shutil.copytree(saved("clip_llama"), tmp_path / "checkpoint")


def held(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of all files."""
    return {name: one for path in sorted(directory.glob("*.safetensors")) for name, one in load_file(path).items()}


def are_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether both hold the same bits under the same names."""
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def rewrite(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Save changed tensors in a checkpoint's place."""
    save_file(change(load_file(checkpoint / "model.safetensors")), checkpoint / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_bit_survives_import_and_export(family: str, saved: Callable[[str], Path], tmp_path: Path) -> None:
    source = saved(family)
    assert cli.main(["import", str(source), str(tmp_path / "ours")]) == 0
    assert cli.main(["export", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
    assert are_same(held(source), held(tmp_path / "theirs"))
    for name in (
        "config.json", "generation_config.json", "tokenizer_config.json", "additional_chat_templates/tools.jinja",
    ):  # fmt: skip
        assert (tmp_path / "theirs" / name).read_bytes() == (source / name).read_bytes(), name
    again, before = load(tmp_path / "theirs"), load(source)
    assert are_same(dict(again.named_parameters()), dict(before.named_parameters()))


@pytest.mark.parametrize("family", LLAVAS)
def test_imported_weights_are_those_that_the_referee_takes_apart(
    family: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    import_weights(saved(family), tmp_path / "ours")
    (tmp_path / "ours" / "aside.safetensors").unlink()
    theirs = dict(LlavaForConditionalGeneration.from_pretrained(saved(family)).named_parameters())
    found = oracle.to_transformers(read_model_shape(CONFIGS / f"{family}.json"), held(tmp_path / "ours"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in found.items())


def test_one_file_with_an_index_is_read(checkpoint: Path, tmp_path: Path) -> None:
    names = load_file(checkpoint / "model.safetensors")
    index = json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")})
    (checkpoint / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    assert import_weights(checkpoint, tmp_path / "ours").num_tensors > 0


def test_shards_are_read_and_written(saved: Callable[[str], Path], tmp_path: Path) -> None:
    whole = saved("siglip_qwen2")
    LlavaForConditionalGeneration.from_pretrained(whole).save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    import_weights(tmp_path / "shards", tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "theirs", shard_bytes=200_000)
    assert are_same(held(whole), held(tmp_path / "theirs"))
    index = json.loads((tmp_path / "theirs" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in held(whole).values())
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "theirs" / file, framework="pt") as opened:
            assert name in opened.keys()  # noqa: SIM118  # it is no mapping
    LlavaForConditionalGeneration.from_pretrained(tmp_path / "theirs", local_files_only=True)


def test_every_dtype_stays_what_it_is(checkpoint: Path, tmp_path: Path) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

    def mixed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # One for each layer, as the parts of a layer's parameter must not differ.
        layers = {name: int(name.split("layers.")[1][0]) if "layers." in name else 0 for name in tensors}
        return {name: tensor.to(dtypes[layers[name] % 4]) for name, tensor in tensors.items()}

    rewrite(checkpoint, mixed)
    import_weights(checkpoint, tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "theirs")
    assert are_same(held(checkpoint), held(tmp_path / "theirs"))
    assert {tensor.dtype for tensor in held(tmp_path / "ours").values()} == set(dtypes)


@pytest.mark.parametrize(
    "prefixes",
    [
        {"vision_tower.": "vision_tower.vision_model."},
        {
            "vision_tower.": "model.vision_tower.",
            "multi_modal_projector.": "model.multi_modal_projector.",
            "language_model.model.": "model.language_model.",
            "language_model.lm_head.": "lm_head.",
        },
    ],
    ids=["older", "inner"],
)
def test_a_checkpoint_keeps_its_own_spelling(prefixes: dict[str, str], checkpoint: Path, tmp_path: Path) -> None:
    def spelled(name: str) -> str:
        found = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        return prefixes.get(found, "") + name.removeprefix(found)

    rewrite(checkpoint, lambda tensors: {spelled(name): tensor for name, tensor in tensors.items()})
    import_weights(checkpoint, tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "theirs")
    assert are_same(held(checkpoint), held(tmp_path / "theirs"))


def test_a_tied_output_layer_that_is_stored_too_comes_back(saved: Callable[[str], Path], tmp_path: Path) -> None:
    source = shutil.copytree(saved("siglip_qwen2"), tmp_path / "checkpoint")
    head, embedding = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    rewrite(source, lambda tensors: {**tensors, head: tensors[embedding].clone()})
    import_weights(source, tmp_path / "ours")
    assert not any("output_layer" in name for name in held(tmp_path / "ours"))
    export_weights(tmp_path / "ours", tmp_path / "theirs")
    assert are_same(held(source), held(tmp_path / "theirs"))
    rewrite(source, lambda tensors: {**tensors, head: tensors[embedding] + 1})
    with pytest.raises(WeightsError, match=r"lm_head.weight differs from .*embed_tokens.weight"):
        import_weights(source, tmp_path / "other")


def test_no_more_than_the_largest_tensor_is_ever_held(checkpoint: Path, tmp_path: Path) -> None:
    fields = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    fields["text_config"]["vocab_size"] = 100_000
    (checkpoint / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    large = torch.zeros(100_000, 64)
    rewrite(
        checkpoint,
        lambda tensors: {
            name: large.clone() if tensor.shape == (256, 64) else tensor for name, tensor in tensors.items()
        },
    )
    tracemalloc.start()
    try:
        import_weights(checkpoint, tmp_path / "ours")
        export_weights(tmp_path / "ours", tmp_path / "theirs")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert are_same(held(checkpoint), held(tmp_path / "theirs"))
    assert large.nbytes == 25_600_000
    assert peak_bytes < large.nbytes


# What is wrong.


def without(*names: str) -> Callable[[Path], None]:
    return lambda place: rewrite(place, lambda tensors: {k: v for k, v in tensors.items() if k not in names})


def with_one(name: str, tensor: torch.Tensor) -> Callable[[Path], None]:
    return lambda place: rewrite(place, lambda tensors: {**tensors, name: tensor})


def cut_short(place: Path) -> None:
    path = place / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def not_safetensors(place: Path) -> None:
    (place / "model.safetensors").write_bytes(b"<!doctype html><title>Sign in</title>")


def lfs_pointer(file: str) -> Callable[[Path], None]:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"

    def change(place: Path) -> None:
        (place / file).write_text(text, encoding="utf-8")

    return change


def renamed(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda place: rewrite(place, lambda tensors: {change(name): one for name, one in tensors.items()})


def adapter(place: Path) -> None:
    (place / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    (place / "model.safetensors").rename(place / "adapter_model.safetensors")
    (place / "config.json").unlink()


def stale_single_file(place: Path) -> None:
    shutil.copy(place / "model.safetensors", place / "model-00001-of-00001.safetensors")
    names = load_file(place / "model.safetensors")
    content = json.dumps({"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")})
    (place / "model.safetensors.index.json").write_text(content, encoding="utf-8")


def pickled_only(place: Path) -> None:
    (place / "model.safetensors").rename(place / "pytorch_model.bin")


def no_weights(place: Path) -> None:
    (place / "model.safetensors").unlink()


def no_config(place: Path) -> None:
    (place / "config.json").unlink()


def index_to(file: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        content = json.dumps({"weight_map": {"language_model.lm_head.weight": file}})
        (place / "model.safetensors.index.json").write_text(content, encoding="utf-8")
        (place / "model.safetensors").unlink()

    return change


QKV = "vision_tower.encoder.layers.2.self_attn.{}_proj.bias"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without(QKV.format("k")), "tensor vision_tower.encoder.layers.2.self_attn.k_proj.bias is missing"),
        (without("language_model.lm_head.weight"), "tensor language_model.lm_head.weight or lm_head.weight is missing"),
        (with_one(QKV.format("q"), torch.zeros(32)), "has shape [32], and config.json makes it [64]"),
        (with_one(QKV.format("q"), torch.zeros(64, dtype=torch.bfloat16)), "of dtypes ['BF16', 'F32']"),
        (with_one("language_model.model.layers.4.mlp.up_proj.weight", torch.zeros(1)), "belongs to nothing"),
        (with_one("image_newline", torch.zeros(64)), "tensor image_newline belongs to nothing"),
        (cut_short, "model.safetensors: no whole safetensors file"),
        (not_safetensors, "model.safetensors: no whole safetensors file"),
        (lfs_pointer("model.safetensors"), "model.safetensors: is a pointer of Git LFS, not the file itself; fetch it"),
        (lfs_pointer("config.json"), "config.json: is a pointer of Git LFS"),
        (lfs_pointer("model.safetensors.index.json"), "index.json: is a pointer of Git LFS"),
        (stale_single_file, "model.safetensors: the directory also holds model.safetensors.index.json, and from_pre"),
        (adapter, "adapter_config.json: the directory holds an adapter of PEFT; load it with its base model"),
        (renamed(lambda name: f"module.{name}"), "'module' is a name of DistributedDataParallel; save its `module`"),
        (renamed(lambda name: f"_orig_mod.{name}"), "'_orig_mod' is a name of torch.compile; save its `_orig_mod`"),
        (renamed(lambda name: f"base_model.model.{name}"), "'base_model' is a name of PEFT; save what merge_and"),
        (
            renamed(lambda name: name.replace("q_proj.", "q_proj.base_layer.")),
            "'base_layer' is a name of PEFT; save what merge_and_unload() returns",
        ),
        (
            renamed(lambda name: name.replace("multi_modal_projector.linear_1", "model.mm_projector.0")),
            "'mm_projector' is a name of the original LLaVA repository; use a checkpoint that was converted",
        ),
        (pickled_only, "pytorch_model.bin: a pickled file can run any code"),
        (no_weights, "holds neither model.safetensors nor model.safetensors.index.json"),
        (no_config, "config.json: no such file"),
        (index_to("shard.safetensors"), "shard.safetensors: no such file"),
        (index_to("../shard.safetensors"), "shards are next to their index"),
        (index_to("model.bin"), "only safetensors are read"),
    ],
)
def test_what_cannot_be_imported_is_told_and_leaves_nothing(
    change: Callable[[Path], None],
    complaint: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(checkpoint)
    assert cli.main(["import", str(checkpoint), str(tmp_path / "ours")]) == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_directory_that_holds_something_is_neither_imported_nor_exported_into(
    checkpoint: Path, tmp_path: Path
) -> None:
    before = sorted(checkpoint.iterdir())
    with pytest.raises(WeightsError, match="is not empty"):
        import_weights(checkpoint, checkpoint)
    (tmp_path / "ours").mkdir()  # an empty one is as good as a new one
    import_weights(checkpoint, tmp_path / "ours")
    with pytest.raises(WeightsError, match="is not empty"):
        export_weights(tmp_path / "ours", checkpoint)
    assert sorted(checkpoint.iterdir()) == before


def test_folders_on_the_way_to_a_new_directory_are_made(checkpoint: Path, tmp_path: Path) -> None:
    import_weights(checkpoint, tmp_path / "weights" / "of" / "ours")
    export_weights(tmp_path / "weights" / "of" / "ours", tmp_path / "checkpoints" / "again")
    assert (tmp_path / "checkpoints" / "again" / "config.json").is_file()
    with pytest.raises(WeightsError, match=r"cannot be made, .*config\.json is no writable directory"):
        check_new(checkpoint / "config.json" / "weights" / "ours")


def test_a_disk_that_fills_up_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    limit = 400_000  # bytes a file; the checkpoint's tensors take 1.4 million

    result = subprocess.run(
        [sys.executable, "-m", "mimo_bench", "import", str(checkpoint), str(tmp_path / "ours")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert (result.returncode, result.stderr) == (BUG, "mimo-bench: a file: File too large\n")
    assert list(tmp_path.iterdir()) == [checkpoint]


def flip_last_bit(path: Path) -> None:
    """Damage a file and leave its size."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.fixture
def ours(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A directory of weights to be changed."""
    import_weights(saved("clip_llama"), tmp_path / "ours")
    return tmp_path / "ours"


def test_equal_weights_have_equal_hashes_wherever_they_lie(
    ours: Path, saved: Callable[[str], Path], checkpoint: Path, tmp_path: Path
) -> None:
    import_weights(saved("clip_llama"), tmp_path / "again")
    assert read_manifest(tmp_path / "again") == read_manifest(ours)
    name = "language_model.model.norm.weight"
    rewrite(checkpoint, lambda tensors: {**tensors, name: tensors[name].nextafter(torch.tensor(9.0))})
    import_weights(checkpoint, tmp_path / "other")
    assert read_manifest(tmp_path / "other").content_hash != read_manifest(ours).content_hash


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda place: (place / "weights.json").unlink(), "weights.json: no such file; `mimo-bench import"),
        (lambda place: (place / "weights.json").write_text("{"), "weights.json: not valid JSON"),
        (lambda place: (place / "weights.json").write_text('{"format_version": 2}'), "format_version = 2"),
        (lambda place: (place / "weights.json").write_text('{"format_version": 1}'), "shape: Field required"),
        (lambda place: (place / "vision.safetensors").unlink(), "vision.safetensors: no such file"),
        (lambda place: (place / "vision.safetensors").write_bytes(b"1234"), "has 4 bytes of 593"),
        (lambda place: flip_last_bit(place / "vision.safetensors"), "vision.safetensors: its SHA-256 is not the one"),
        (lambda place: flip_last_bit(place / "aside.safetensors"), "aside.safetensors: its SHA-256 is not the one"),
    ],
)
def test_a_broken_directory_of_weights_is_refused(
    change: Callable[[Path], None], complaint: str, ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(ours)
    assert cli.main(["export", str(ours), str(tmp_path / "theirs")]) == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [ours]


def test_an_export_of_checkpoints_names_the_newest(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step in (1, 2):
        shutil.copytree(ours, tmp_path / "checkpoints" / f"step-0000000{step}")
    with pytest.raises(WeightsError, match=r"weights.json: no such file; name .*/checkpoints/step-00000002"):
        export_weights(tmp_path / "checkpoints", tmp_path / "theirs")


def test_an_export_says_what_it_leaves_out_and_what_is_not_stored(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(ours), str(tmp_path / "whole")]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    shutil.rmtree(ours / "companions")
    (ours / "aside.safetensors").unlink()
    tensors = load_file(ours / "vision.safetensors")
    tensors["vision.projector.adapter.weight"] = torch.zeros(2)
    save_file(tensors, ours / "vision.safetensors")
    save_file({"step": torch.zeros(1)}, ours / "vision.exp_avg.safetensors")
    content = (ours / "vision.safetensors").read_bytes()
    manifest = json.loads((ours / "weights.json").read_text(encoding="utf-8"))
    del manifest["files"]["aside"]
    manifest["files"]["vision"] = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (ours / "weights.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert cli.main(["export", str(ours), str(tmp_path / "theirs")]) == 0
    assert [line.split(": ")[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["left out", "vision.projector.adapter.weight"],
        ["left out", "vision.exp_avg.safetensors"],
        ["not stored", "vision_tower.post_layernorm.weight, vision_tower.post_layernorm.bias"],
        ["not stored", "tokenizer and processor; save them with save_pretrained of your processor"],
    ]


def test_weights_of_another_model_are_refused_with_the_field_that_differs(ours: Path) -> None:
    manifest = read_manifest(ours)
    check_shape(ours, manifest, manifest.shape)
    with pytest.raises(MimoBenchError, match=r"language.image_token_id = 255, and the scenario's has 250"):
        check_shape(ours, manifest, PRESETS["siglip-qwen2-tiny"])


PUBLISHED = [name for name, shape in PRESETS.items() if len(shape.modules) == 2]
"""Presets that a model of `transformers` is like: LLaVA's kind and Voxtral's."""


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_preset_has_a_config_json_that_is_read_as_the_same_shape(preset: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_of(PRESETS[preset])), encoding="utf-8")
    assert read_model_shape(tmp_path / "config.json") == PRESETS[preset]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_that_was_read_is_written_as_it_was(family: str, tmp_path: Path) -> None:
    shape = read_model_shape(CONFIGS / f"{family}.json")
    (tmp_path / "config.json").write_text(json.dumps(config_of(shape)), encoding="utf-8")
    assert read_model_shape(tmp_path / "config.json") == shape


def test_a_model_that_is_neither_llava_nor_voxtral_is_not_passed_off_as_one() -> None:
    shape = PRESETS["llava-audio-tiny"]
    assert config_of(shape) is None
    with pytest.raises(WeightsError, match=r"module 'audio' has no place in a checkpoint of `transformers`"):
        parameters(shape)


@pytest.mark.parametrize("preset", PUBLISHED)
def test_the_table_names_every_parameter_once(preset: str) -> None:
    rows = parameters(PRESETS[preset])
    parts = [(part.component, part.name) for row in rows for part in row.parts]
    assert len({row.name for row in rows}) == len(rows)
    assert len(set(parts)) == len(parts)


SCENARIO = """
question = "Is it?"
model = "ours/config.json"
weights = "ours"
global_batch_size = 4
global_micro_batch_size = 4
seq_length = 48
baseline = "base"

[[layout]]
name = "base"
vision = {}
language = {}
"""


@pytest.fixture
def scenario(ours: Path) -> Path:
    """A scenario beside a directory of weights."""
    path = ours.parent / "case.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def test_a_scenario_holds_the_hash_of_its_weights_not_their_place(scenario: Path, ours: Path) -> None:
    loaded = load_scenario(scenario)
    assert loaded.stored is not None
    assert loaded.stored.content_hash == read_manifest(ours).content_hash
    assert loaded.weights_directory == str(ours)
    dumped = json.dumps(loaded.model_dump(mode="json"))
    assert str(ours) not in dumped
    again = Scenario.model_validate_json(dumped)
    again.check()
    assert again.content_hash == loaded.content_hash
    shutil.copytree(ours, ours.parent / "moved")
    scenario.write_text(SCENARIO.replace('"ours', '"moved'), encoding="utf-8")
    assert load_scenario(scenario).content_hash == loaded.content_hash
    scenario.write_text(SCENARIO, encoding="utf-8")
    # Other weights of the same model are another experiment.
    manifest = json.loads((ours / "weights.json").read_text(encoding="utf-8"))
    manifest["files"]["vision"]["sha256"] = "0" * 64
    (ours / "weights.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert load_scenario(scenario).content_hash != loaded.content_hash


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            '"ours/config.json"',
            '"siglip-qwen2-tiny"',
            "weights: {ours} is for a model with language.image_token_id = 255, and",
        ),
        (
            'weights = "ours"',
            'weights = "hours"',
            "weights: 'hours': no such directory; `mimo-bench import` makes one at",
        ),
        ('weights = "ours"', 'weights = "."', "weights.json: no such file"),
        ('weights = "ours"', "weights = 3", "weights: 3: should be a valid string"),
        ("question", 'stored = "x"\nquestion', "stored: is filled in from what weights names; remove it"),
    ],
)
def test_weights_that_a_scenario_cannot_start_from_are_told_at_check(
    old: str, new: str, complaint: str, scenario: Path, ours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario.write_text(SCENARIO.replace(old, new), encoding="utf-8")
    assert cli.main(["check", str(scenario)]) == 2
    assert complaint.format(ours=ours) in capsys.readouterr().err
