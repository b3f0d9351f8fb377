"""A config.json of `transformers` is read as `transformers` reads it, and what is not built is refused by name."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.models import PRESETS, Experts, ModelShape, read_model_shape
from mimo_bench.models.llama.shape import LinearRope, Llama3Rope
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.util.errors import ScenarioError

CONFIGS = Path(__file__).parents[1] / "configs"

# As `transformers` 4.36 wrote it for llava-hf/llava-1.5-7b-hf: what is default is left out.
LLAVA_7B: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.36.0.dev0",
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}

Read = Callable[[dict[str, Any]], ModelShape]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write a configuration to config.json and read that."""

    def write_and_read(config: dict[str, Any]) -> ModelShape:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return read_model_shape(path)

    return write_and_read


def changed(place: str, value: Any, whole: dict[str, Any] = LLAVA_7B) -> dict[str, Any]:
    """A configuration, LLaVA's where none is given, with one place changed."""
    config = copy.deepcopy(whole)
    *tables, key = place.split(".")
    table = config
    for name in tables:
        table = table[name]
    table[key] = value
    return config


def with_text(kind: str, **fields: Any) -> dict[str, Any]:
    """LLaVA's configuration with another language model."""
    return changed("text_config", {"model_type": kind, **fields})


def test_presets_are_what_published_configurations_say(read: Read) -> None:
    assert read(LLAVA_7B) == PRESETS["llava-1.5-7b"]
    vicuna_13b = {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
        "num_key_value_heads": 40,
    }
    assert read(changed("text_config", LLAVA_7B["text_config"] | vicuna_13b)) == PRESETS["llava-1.5-13b"]
    assert read_model_shape(CONFIGS / "clip_llama.json") == PRESETS["llava-tiny"]
    assert read_model_shape(CONFIGS / "siglip_qwen2.json") == PRESETS["siglip-qwen2-tiny"]
    assert read_model_shape(CONFIGS / "clip_mixtral.json") == PRESETS["llava-moe-tiny"]


@pytest.mark.parametrize("vision", ["clip_vision_model", "siglip_vision_model"])
@pytest.mark.parametrize("text", ["llama", "mistral", "mixtral", "qwen2"])
def test_what_a_file_leaves_out_has_the_default_of_transformers(
    vision: str, text: str, read: Read, tmp_path: Path
) -> None:
    from transformers import LlavaConfig

    # An image token that fits every default vocabulary.
    fields: dict[str, Any] = {"image_token_index": 7, "vision_feature_select_strategy": "full", "model_type": "llava"}
    sparse = fields | {"vision_config": {"model_type": vision}, "text_config": {"model_type": text}}
    LlavaConfig.from_dict(copy.deepcopy(sparse)).save_pretrained(tmp_path / "whole")
    written = json.loads((tmp_path / "whole" / "config.json").read_text(encoding="utf-8"))
    assert len(written["text_config"]) > 10
    assert read(sparse) == read(written)


# As it is published for mistralai/Voxtral-Mini-3B-2507.
VOXTRAL_3B: dict[str, Any] = {
    "architectures": ["VoxtralForConditionalGeneration"],
    "audio_config": {
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "head_dim": 64,
        "hidden_size": 1280,
        "initializer_range": 0.02,
        "intermediate_size": 5120,
        "layerdrop": 0.0,
        "max_source_positions": 1500,
        "model_type": "voxtral_encoder",
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "num_key_value_heads": 20,
        "num_mel_bins": 128,
        "scale_embedding": False,
        "vocab_size": 51866,
    },
    "audio_token_id": 24,
    "hidden_size": 3072,
    "model_type": "voxtral",
    "projector_hidden_act": "gelu",
    "text_config": {
        "head_dim": 128,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "model_type": "llama",
        "num_hidden_layers": 30,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000000.0,
        "sliding_window": None,
        "vocab_size": 131072,
    },
    "torch_dtype": "bfloat16",
    "vocab_size": 131072,
}


def test_a_voxtral_is_whispers_encoder_and_a_llama(read: Read, tmp_path: Path) -> None:
    from transformers import VoxtralConfig

    shape = read(VOXTRAL_3B)
    assert shape.audio == PRESETS["llava-audio-7b-8of32"].audio
    assert list(shape.modules) == ["audio", "language"]
    assert (shape.special_tokens, shape.language.rotary_base) == ({"audio": 24}, 1e8)
    # Its file says what is default; one that leaves all of it out is the same model.
    sparse = {"model_type": "voxtral", "audio_token_id": 24, "audio_config": {}, "text_config": {}}
    VoxtralConfig.from_dict(copy.deepcopy(sparse)).save_pretrained(tmp_path / "whole")
    written = json.loads((tmp_path / "whole" / "config.json").read_text(encoding="utf-8"))
    assert len(written["text_config"]) > 10
    assert read(sparse) == read(written) == shape


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("audio_token_id", 131072, "audio_token_id = 131072: samples need words below it, .* use 2 to 131071"),
        ("audio_token_id", None, "audio_token_id = null: use a whole number"),
        ("projector_hidden_act", "relu", 'projector_hidden_act = "relu": is not built; use "gelu"'),
        ("vision_config", {}, "vision_config = {}: is not known here"),
        (
            "audio_config.model_type",
            "whisper",
            'audio_config.model_type = "whisper": is not built; use "voxtral_encoder',
        ),
        ("audio_config.activation_function", "relu", 'audio_config.activation_function = "relu": is not built'),
        ("audio_config.scale_embedding", True, "audio_config.scale_embedding = true: is not built; use false"),
        ("audio_config.layerdrop", 0.1, "audio_config.layerdrop = 0.1: is not built; use 0"),
        ("audio_config.activation_dropout", 0.1, "audio_config.activation_dropout = 0.1: is not built; use 0"),
        ("audio_config.num_key_value_heads", 4, "audio_config.num_key_value_heads = 4: is not built; use 20"),
        ("audio_config.num_attention_heads", 19, "audio_config.num_attention_heads = 19: does not divide the hidden"),
        ("audio_config.intermediate_size", 5000, "intermediate_size = 5000: the projector .* use a multiple of 1280"),
        ("audio_config.max_source_positions", 1501, "max_source_positions = 1501: 4 positions become one token; use a"),
        ("audio_config.encoder_layers", 4, "audio_config.encoder_layers = 4: is not known here"),
        ("text_config.sliding_window", 4096, "text_config.sliding_window = 4096: is not built; use null"),
    ],
)
def test_a_voxtral_that_is_not_built_is_refused(place: str, value: Any, expected: str, read: Read) -> None:
    with pytest.raises(ScenarioError, match=expected):
        read(changed(place, value, VOXTRAL_3B))


@pytest.mark.parametrize(
    ("layer", "num_layers"),
    [(-1, 24), (-2, 23), (-24, 1), (1, 1), (24, 24)],
)
def test_layers_beyond_the_feature_layer_are_not_built(layer: int, num_layers: int, read: Read) -> None:
    assert read(changed("vision_feature_layer", layer)).encoders["vision"].num_layers == num_layers


def test_the_class_token_reaches_the_language_model_where_asked_for(read: Read) -> None:
    assert read(LLAVA_7B).encoders["vision"].num_tokens == 576
    assert read(changed("vision_feature_select_strategy", "full")).encoders["vision"].num_tokens == 577


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("fields", "base", "scaling"),
    [
        ({}, 10000.0, None),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5, None),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}, 5e5, LinearRope(factor=2.0)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 1e6, None),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 1e6}}, 1e6, LinearRope(factor=4.0)),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            5e5,
            Llama3Rope(**LLAMA3, original_max_position_embeddings=2048),
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": 8192}},
            10000.0,
            Llama3Rope(**LLAMA3, original_max_position_embeddings=8192),
        ),
    ],
)
def test_rotary_positions_are_read_in_old_and_new_spelling(
    fields: dict[str, Any], base: float, scaling: Any, read: Read
) -> None:
    language = read(with_text("llama", vocab_size=32064, **fields)).language
    assert (language.rotary_base, language.rotary_scaling) == (base, scaling)


@pytest.mark.parametrize(
    ("kind", "fields", "window"),
    [
        ("mistral", {}, 4096),
        ("mistral", {"sliding_window": None}, None),
        ("mixtral", {}, None),
        ("mixtral", {"sliding_window": 4096}, 4096),
        ("qwen2", {"sliding_window": 4096}, None),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": True}, 4096),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 32}, None),
        (
            "qwen2",
            {"sliding_window": 4096, "use_sliding_window": True, "layer_types": ["full_attention"] * 32},
            None,
        ),
    ],
)
def test_a_sliding_window_counts_where_a_layer_has_one(
    kind: str, fields: dict[str, Any], window: int | None, read: Read
) -> None:
    assert read(with_text(kind, vocab_size=32064, **fields)).language.sliding_window == window


@pytest.mark.parametrize("place", ["tie_word_embeddings", "text_config.tie_word_embeddings"])
def test_embeddings_are_tied_by_either_table(place: str, read: Read) -> None:
    assert not read(LLAVA_7B).language.tied_embeddings
    assert read(changed(place, True)).language.tied_embeddings


def test_biases_and_head_sizes_are_those_of_the_family(read: Read) -> None:
    llama, qwen2 = (read(with_text(kind, vocab_size=32064)).language for kind in ("llama", "qwen2"))
    assert (llama.qkv_bias, qwen2.qkv_bias) == (False, True)
    assert llama.head_size == 4096 // 32
    assert read(with_text("mistral", vocab_size=32064, head_dim=64)).language.head_size == 64


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("model_type", "llava_next", 'model_type = "llava_next": is not built; use "llava"'),
        ("projector_hidden_act", "relu", 'projector_hidden_act = "relu": is not built; use "gelu"'),
        ("multimodal_projector_bias", False, "multimodal_projector_bias = false: is not built; use true"),
        ("vision_feature_layer", [-2, -5], "vision_feature_layer = [-2, -5]: features of several layers are not built"),
        ("vision_feature_layer", 0, "vision_feature_layer = 0: is no layer; use 1 to 24, or -24 to -1"),
        ("vision_feature_layer", -25, "vision_feature_layer = -25: is no layer"),
        ("vision_feature_select_strategy", "cls", 'vision_feature_select_strategy = "cls": is not built'),
        ("image_token_index", 40000, "image_token_index = 40000: samples need words below it"),
        ("quantization_config", {"bits": 4}, 'quantization_config = {"bits": 4}: is not built; use null'),
        ("num_experts", 8, "num_experts = 8: is not known here; remove it if the model is the same without it"),
        ("vision_config", None, "vision_config = null: use a table, as save_pretrained of `transformers` writes it"),
        ("vision_config.model_type", "pixtral", 'vision_config.model_type = "pixtral": is not built; use "clip_vision'),
        ("vision_config.model_type", "siglip_vision_model", 'would drop SigLIP\'s first patch; use "full"'),
        ("vision_config.hidden_act", "relu", 'vision_config.hidden_act = "relu": is not built; use "quick_gelu" or'),
        ("vision_config.num_channels", 1, "vision_config.num_channels = 1: is not built; use 3"),
        ("vision_config.attention_dropout", 0.1, "vision_config.attention_dropout = 0.1: is not built; use 0"),
        ("vision_config.num_attention_heads", 15, "num_attention_heads = 15: does not divide the hidden size"),
        ("vision_config.patch_size", 337, "vision_config.patch_size = 337: is larger than the image; use at most 336"),
        ("vision_config.image_size", [336, 336], "vision_config.image_size = [336, 336]: use a whole number"),
        ("text_config.model_type", "qwen2_moe", 'text_config.model_type = "qwen2_moe": is not built; use "llama" or'),
        ("text_config.hidden_act", "gelu", 'text_config.hidden_act = "gelu": is not built; use "silu"'),
        ("text_config.attention_bias", True, "text_config.attention_bias = true: is not built; use false"),
        ("text_config.mlp_bias", True, "text_config.mlp_bias = true: is not built; use false"),
        ("text_config.attention_dropout", 0.1, "text_config.attention_dropout = 0.1: is not built; use 0"),
        ("text_config.head_dim", 63, "text_config.head_dim = 63: rotary positions turn pairs; use an even size"),
        ("text_config.num_key_value_heads", 5, "text_config.num_key_value_heads = 5: does not divide the attention"),
        ("text_config.num_hidden_layers", "32", 'num_hidden_layers = "32": use a whole number of at least 1'),
        ("text_config.rms_norm_eps", 0, "text_config.rms_norm_eps = 0: use a number above 0"),
        ("text_config.num_local_experts", 8, "text_config.num_local_experts = 8: is not known here"),
        (
            "text_config.rope_scaling",
            {"type": "yarn", "factor": 2.0},
            'text_config.rope_scaling.type = "yarn": is not built; use "default" or "linear" or "llama3"',
        ),
        ("text_config.rope_scaling", {"type": "linear"}, "text_config.rope_scaling.factor is missing; add it"),
        (
            "text_config.rope_scaling",
            {"type": "linear", "factor": 2.0, "beta_fast": 3},
            "text_config.rope_scaling.beta_fast = 3: is not known here",
        ),
        (
            "text_config.rope_parameters",
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
            "text_config.rope_parameters.partial_rotary_factor = 0.5: is not built; use 1",
        ),
    ],
)
def test_what_is_not_built_is_refused_with_file_key_value_and_remedy(
    place: str, value: Any, expected: str, read: Read
) -> None:
    with pytest.raises(ScenarioError) as caught:
        read(changed(place, value))
    assert "config.json: " in str(caught.value)
    assert expected in str(caught.value)


def test_notes_of_tools_stop_no_model(read: Read) -> None:
    noted: dict[str, Any] = {
        **LLAVA_7B,
        "trainer_fixed": True,
        "unsloth_version": "2025.1",
        "tokenizer_padding_side": "right",
        "num_experts": None,
        "hidden_size": 4096,
        "text_config": {**LLAVA_7B["text_config"], "trainer_version": "1.0", "_flash_attn_2_enabled": True},
        "vision_config": {**LLAVA_7B["vision_config"], "embed_dim": 1024},
    }
    assert read(noted) == read(LLAVA_7B)


def test_every_refused_key_of_a_file_is_named_at_once(read: Read) -> None:
    config = changed("vision_config.embed_dim", 512)
    config["num_experts"] = 8
    config["projector_hidden_act"] = "relu"
    config["text_config"] |= {"mlp_bias": True, "num_hidden_layers": "32", "kv_lora_rank": 512}
    with pytest.raises(ScenarioError) as caught:
        read(config)
    keys = [line.split("config.json: ")[1].split(" = ")[0] for line in str(caught.value).splitlines()]
    assert keys == [
        "projector_hidden_act",
        "text_config.mlp_bias",
        "text_config.num_hidden_layers",
        "vision_config.embed_dim",
        "text_config.kv_lora_rank",
        "num_experts",
    ]


def test_sizes_that_depend_on_a_refused_one_are_not_blamed(read: Read) -> None:
    with pytest.raises(ScenarioError) as caught:
        read(changed("text_config.num_attention_heads", "forty"))
    assert str(caught.value).count("\n") == 0
    assert 'num_attention_heads = "forty": use a whole number' in str(caught.value)


ORIGINAL_LLAVA: dict[str, Any] = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "max_position_embeddings": 4096,
    "mm_hidden_size": 1024,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "model_type": "llava",
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "vocab_size": 32064,
}
"""Written by the original LLaVA repository for a model of 13B."""


@pytest.mark.parametrize("model_type", ["llava", "llava_llama", "llava_mistral", "llava_qwen"])
def test_a_file_of_the_original_llava_repository_is_refused_as_that(model_type: str, read: Read) -> None:
    with pytest.raises(ScenarioError, match=r"the file is of the original LLaVA repository; .* use a checkpoint that"):
        read({**ORIGINAL_LLAVA, "model_type": model_type})


def test_tables_of_defaults_do_not_make_an_original_llava_a_model_of_7b(read: Read, tmp_path: Path) -> None:
    from transformers import LlavaConfig

    LlavaConfig.from_dict(copy.deepcopy(ORIGINAL_LLAVA)).save_pretrained(tmp_path / "resaved")
    resaved = json.loads((tmp_path / "resaved" / "config.json").read_text(encoding="utf-8"))
    assert resaved["text_config"]["hidden_size"] == 4096
    with pytest.raises(ScenarioError, match=r"mm_hidden_size = 1024: the file is of the original LLaVA repository"):
        read(resaved)
    # Also if its own keys were removed one by one.
    stripped = {key: value for key, value in resaved.items() if not key.startswith("mm_")} | {
        "image_token_index": 31999
    }
    with pytest.raises(ScenarioError, match="hidden_size = 5120: contradicts text_config; use null or 4096"):
        read(stripped)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"router_jitter_noise": 0.1}, "text_config.router_jitter_noise = 0.1: is not built; use 0"),
        ({"output_router_logits": True}, "text_config.output_router_logits = true: is not built; use false"),
        ({"num_experts_per_tok": 1}, "text_config.num_experts_per_tok = 1: a router learns from .* use 2 to 8"),
        ({"num_experts_per_tok": 9}, "text_config.num_experts_per_tok = 9: .* use 2 to 8"),
        ({"num_local_experts": 0}, "text_config.num_local_experts = 0: use a whole number of at least 1"),
        ({"attention_bias": False}, "text_config.attention_bias = false: is not known here"),
    ],
)
def test_experts_that_are_routed_otherwise_are_refused(fields: dict[str, Any], expected: str, read: Read) -> None:
    assert read(with_text("mixtral", vocab_size=32064)).language.experts == Experts(num_experts=8, num_used=2)
    with pytest.raises(ScenarioError, match=expected):
        read(with_text("mixtral", vocab_size=32064, **fields))


@pytest.mark.parametrize(
    ("text", "expected"), [("{", r"not valid JSON: .*; correct it there, or copy"), ("[]", "holds no table")]
)
def test_a_file_that_is_no_configuration_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=expected):
        read_model_shape(path)


SCENARIO = """
question = "Is it?"
model = "{model}"
global_batch_size = 8
global_micro_batch_size = 4
seq_length = {seq_length}
baseline = "base"
[[layout]]
name = "base"
vision = {{ dp = 2 }}
language = {{ dp = 2 }}
"""


def write_scenario(folder: Path, *, model: str = "config.json", seq_length: int = 48) -> Path:
    path = folder / "case.toml"
    path.write_text(SCENARIO.format(model=model, seq_length=seq_length), encoding="utf-8")
    return path


def test_a_scenario_holds_what_its_config_json_says_not_where_it_lies(tmp_path: Path) -> None:
    text = (CONFIGS / "clip_mistral.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    scenario = load_scenario(write_scenario(tmp_path))
    assert scenario.shape == read_model_shape(CONFIGS / "clip_mistral.json")
    (tmp_path / "config.json").write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    other = load_scenario(tmp_path / "case.toml")
    assert other.content_hash != scenario.content_hash
    # In another folder, under another name, it is the same experiment.
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "ours.json").write_text(text, encoding="utf-8")
    moved = load_scenario(write_scenario(tmp_path, model="moved/ours.json"))
    assert moved.model == "moved/ours.json"
    assert moved.content_hash == scenario.content_hash
    # A rank or a reader of the record needs no file.
    (tmp_path / "config.json").unlink()
    assert Scenario.model_validate_json(json.dumps(scenario.model_dump(mode="json"))).shape == scenario.shape


def test_a_config_json_is_looked_for_beside_the_scenario_then_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    scenario = write_scenario(tmp_path, model="configs/clip_llama.json")
    assert load_scenario(scenario).shape == PRESETS["llava-tiny"]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "clip_llama.json").write_bytes((CONFIGS / "siglip_qwen2.json").read_bytes())
    assert load_scenario(scenario).shape == PRESETS["siglip-qwen2-tiny"]


@pytest.mark.parametrize(
    ("model", "seq_length", "expected"),
    [
        ("nowhere.json", 48, "case.toml: model: 'nowhere.json': no such file; put it at "),
        ("broken.json", 48, "broken.json: not valid JSON"),
        ("config.json", 49, "seq_length = 49: beyond the sliding window of 48 positions attention is local"),
        ("config.json", 24, "seq_length = 24: vision takes 17 positions and the text needs 8 more; use at least 25"),
    ],
)
def test_a_scenario_whose_model_cannot_be_is_refused(
    model: str, seq_length: int, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((CONFIGS / "clip_mistral.json").read_bytes())
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        load_scenario(write_scenario(tmp_path, model=model, seq_length=seq_length))
    assert expected in str(caught.value)


def test_a_shape_is_not_written_in_a_scenario_by_hand(tmp_path: Path) -> None:
    path = write_scenario(tmp_path, model="llava-tiny")
    path.write_text("configured = {}\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ScenarioError, match="configured: is filled in from what model names; remove it"):
        load_scenario(path)


def test_reading_a_configuration_imports_neither_torch_nor_transformers() -> None:
    program = f"""
import sys
from pathlib import Path
from mimo_bench.models import read_model_shape
read_model_shape(Path({str(CONFIGS / "siglip_qwen2.json")!r}))
assert not {{"torch", "transformers", "megatron"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
