"""Model FLOPs, worked out by hand for a model of a few numbers and counted by torch for llava-tiny."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mimo_bench.launch import Launcher
from mimo_bench.layout.settings import Settings
from mimo_bench.models import Experts, LanguageShape, ModelShape, VisionShape
from mimo_bench.models.cost import mfu, model_flops
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.scenario.training import Training
from tests.ranks.trainer_job import run_entry, scenario

VISION = VisionShape(image_size=2, patch_size=1, hidden_size=2, ffn_hidden_size=3, num_layers=1, num_attention_heads=1)
SHAPE = ModelShape(
    vision=VISION,
    language=LanguageShape(
        vocab_size=7,
        hidden_size=4,
        ffn_hidden_size=5,
        num_layers=2,
        num_attention_heads=2,
        num_query_groups=1,
        head_size=2,
        max_sequence_length=8,
        image_token_id=6,
    ),
)

# One image: 4 patches of 1 pixel and a class token, 5 positions of width 2.
#   qkv 2 -> 6, 2 x 5 x 2 x 6 = 120; projection 2 -> 2, 40; MLP 2 -> 3 -> 2, 60 + 60: 280
#   scores [5, 2] x [2, 5], 100; times values [5, 5] x [5, 2], 100: 200
#   projector 2 -> 4 -> 4 over 4 patches, 64 + 128: 192
#   patches 3 -> 2, 2 x 4 x 3 x 2: 48
# Backward twice as much again, but pixels need no gradient: 3 x (280 + 200 + 192) + 2 x 48.
ONE_IMAGE = 2112

# Texts of 3 and 5 tokens: 8 tokens, 9 + 25 = 34 pairs; width 4, 2 heads of 2, one of them for keys and values.
#   a layer, for each token: query 4 -> 4, 32; key and value 4 -> 2, 16 each; projection, 32; gate, up and down 4 -> 5,
#   40 each: 216, in all 1728
#   a layer, for each pair: 2 x 4 for the score and 2 x 4 for the value, half of the pairs: 8 x 34 = 272
#   head 4 -> 7: 2 x 8 x 4 x 7 = 448
# Forward and twice that backward: 3 x (2 x (1728 + 272) + 448).
TWO_TEXTS = 13344


def test_a_step_takes_what_its_matrix_products_take() -> None:
    assert model_flops(SHAPE, num_items={"vision": 1}, num_tokens=8, num_token_pairs=34) == {
        "vision": ONE_IMAGE,
        "language": TWO_TEXTS,
    }


def test_samples_without_an_image_cost_their_text_alone() -> None:
    found = model_flops(SHAPE, num_items={"vision": 0}, num_tokens=8, num_token_pairs=34)
    assert found == {"vision": 0, "language": TWO_TEXTS}


def test_samples_that_differ_in_images_cost_what_each_of_them_has() -> None:
    # None, one and two images in texts of 3, 5 and 2 tokens: 3 images; 10 tokens, 9 + 25 + 4 = 38 pairs.
    found = model_flops(SHAPE, num_items={"vision": 0 + 1 + 2}, num_tokens=10, num_token_pairs=38)
    # 216 a token and 8 a pair in a layer, 56 a token in the head: 2 x (2160 + 304) + 560, three times.
    assert found == {"vision": 3 * ONE_IMAGE, "language": 3 * (2 * (2160 + 304) + 560)}


def test_images_and_texts_are_counted_apart() -> None:
    assert model_flops(SHAPE, num_items={"vision": 10}, num_tokens=0, num_token_pairs=0) == {
        "vision": 10 * ONE_IMAGE,
        "language": 0,
    }


def test_attention_costs_half_of_all_pairs_as_it_is_causal() -> None:
    with_pairs, without = (
        model_flops(SHAPE, num_items={"vision": 0}, num_tokens=8, num_token_pairs=pairs)["language"]
        for pairs in (34, 0)
    )
    # Forward and backward of 2 layers, 4 x 34 x 4 operations over all pairs.
    assert with_pairs - without == 3 * 2 * 544 / 2


def test_patches_of_two_pixels_a_side_are_fewer_and_larger() -> None:
    shape = replace(SHAPE, vision=replace(VISION, patch_size=2))
    # One patch and the class token: layer 56 x 2 + attention 4 x 2^2 x 2 = 144, projector 48, patch 2 x 12 x 2 = 48.
    assert (
        model_flops(shape, num_items={"vision": 1}, num_tokens=0, num_token_pairs=0)["vision"]
        == 3 * (144 + 48) + 2 * 48
    )


def test_what_shapes_differ_in_is_counted_as_it_is_built() -> None:
    siglip = replace(SHAPE, vision=replace(VISION, family="siglip"))
    # Four positions instead of five: layer 56 x 4 + attention 4 x 4^2 x 2; projector and patches as before.
    assert (
        model_flops(siglip, num_items={"vision": 1}, num_tokens=0, num_token_pairs=0)["vision"]
        == 3 * (224 + 128 + 192) + 96
    )
    full = replace(SHAPE, vision=replace(VISION, keep_class_token=True))
    # A fifth position goes through the projector: 48 more, three times.
    assert model_flops(full, num_items={"vision": 1}, num_tokens=0, num_token_pairs=0)["vision"] == ONE_IMAGE + 3 * 48
    wide = replace(SHAPE, language=replace(SHAPE.language, head_size=4))
    # Heads twice as wide double queries, keys, values, projection and attention: 2 layers of (96 x 8 + 272) more.
    assert (
        model_flops(wide, num_items={"vision": 0}, num_tokens=8, num_token_pairs=34)["language"]
        == TWO_TEXTS + 3 * 2 * 1040
    )


def test_experts_count_where_a_token_goes_through_them() -> None:
    shape = replace(SHAPE, language=replace(SHAPE.language, experts=Experts(num_experts=6, num_used=3)))
    # Three MLPs of 120 for each token instead of one, and logits 4 -> 6, 48: 2 layers of 8 x (240 + 48) more.
    found = model_flops(shape, num_items={"vision": 0}, num_tokens=8, num_token_pairs=34)
    assert found["language"] == TWO_TEXTS + 3 * 2 * 8 * 288


def test_utilisation_is_over_all_allocated_devices() -> None:
    # Two H200s at 989.4e12 each.
    assert mfu(flops_per_second=989.4e12, num_devices=2, device="NVIDIA H200", precision="bf16") == 0.5


def test_cards_of_one_name_differ_in_their_peak_by_how_they_are_built() -> None:
    # 100 Tflop/s of one device: by exact name, as the PCIe card of the same chip is slower.
    shares = [
        mfu(flops_per_second=100e12, num_devices=1, device=f"NVIDIA {name}", precision="bf16")
        for name in ("H100 80GB HBM3", "H100 NVL", "H100 PCIe", "A100-SXM4-80GB")
    ]
    assert shares == [pytest.approx(share, abs=1e-4) for share in (0.1011, 0.1197, 0.1323, 0.3205)]


@pytest.mark.parametrize(
    ("device", "precision"),
    [("cpu", "bf16"), ("NVIDIA H100", "bf16"), ("nvidia h200", "bf16"), ("NVIDIA H200", "fp32")],
)
def test_utilisation_of_an_unknown_peak_is_unknown(device: str, precision: str) -> None:
    assert mfu(flops_per_second=1e12, num_devices=1, device=device, precision=precision) is None


@pytest.mark.parametrize(
    ("freeze", "vision", "language"),
    [
        # Forward alone: layers and attention 280 + 200, projector 192, patches 48.
        (("vision",), 480 + 192 + 48, TWO_TEXTS),
        # The encoder forward alone; the projector's first product, 64, without the gradient of its input.
        (("vision.encoder",), 480 + 48 + 2 * 64 + 3 * 128, TWO_TEXTS),
        # The projector only passes gradients on.
        (("vision.projector",), 3 * 480 + 2 * 48 + 2 * 192, TWO_TEXTS),
        # No gradient of weights, but attention has none: 2 layers of 1728 and the head twice, 2 x 272 three times.
        (("language",), ONE_IMAGE, 2 * (2 * 1728 + 448) + 3 * 2 * 272),
    ],
)
def test_a_frozen_module_counts_only_what_it_computes(freeze: tuple[str, ...], vision: int, language: int) -> None:
    found = model_flops(
        SHAPE, num_items={"vision": 1}, num_tokens=8, num_token_pairs=34, trains=Training(freeze=freeze).trains
    )
    assert found == {"vision": vision, "language": language}


def test_torch_counts_what_is_recomputed_and_we_do_not(launcher: Launcher, tmp_path: Path) -> None:
    plain = scenario({"one-rank": ({}, {})}, data="synthetic-filled", seq_length=48)
    again = plain.layout[0].model_copy(update={"settings": Settings(recompute_activations=True)})
    recomputed = Scenario.model_validate({**dict(plain), "layout": (again,)})
    run_entry(launcher, "count_flops", recomputed, "one-rank", tmp_path)
    counted = json.loads((tmp_path / "rank0.json").read_text())
    num_tokens, num_pairs = 4 * 48, 4 * 48 * 48
    ours = model_flops(plain.shape, num_items={"vision": 4}, num_tokens=num_tokens, num_token_pairs=num_pairs)
    # Every layer forward once more, 4 of width 64 and MLPs of 128 in each module: over 17 positions of 4 images 4
    # products of 64 x 64 and 2 of 64 x 128; over all tokens 3 of each, as keys and values are half as wide. Scores and
    # values are of all pairs, as torch counts them.
    vision = 4 * (17 * 2 * (4 * 64 * 64 + 2 * 64 * 128) + 2 * 2 * 17 * 17 * 64)
    language = num_tokens * 2 * (3 * 64 * 64 + 3 * 64 * 128) + 2 * 2 * 64 * num_pairs
    masked_half = 3 * 4 * (2 * 2 * 64 * num_pairs) / 2
    assert counted["flops"] == pytest.approx(sum(ours.values()) + masked_half + 4 * (vision + language), rel=5e-3)


@pytest.mark.parametrize(
    ("model", "freeze"),
    [
        ("llava-tiny", ()),
        ("llava-tiny", ("vision.encoder", "language")),
        ("llava-tiny", ("vision",)),
        ("llava-moe-tiny", ()),
    ],
)
def test_torch_counts_as_many_operations_in_our_own_modules(
    launcher: Launcher, tmp_path: Path, model: str, freeze: tuple[str, ...]
) -> None:
    training = Training(freeze=freeze)
    # Filled: torch counts padding, too, and we do not.
    filled = scenario({"one-rank": ({}, {})}, model=model, data="synthetic-filled", seq_length=48, training=training)
    run_entry(launcher, "count_flops", filled, "one-rank", tmp_path)
    counted = json.loads((tmp_path / "rank0.json").read_text())
    assert (counted["items"], counted["tokens"], counted["token_pairs"]) == ({"vision": 4}, 4 * 48, 4 * 48 * 48)
    ours = model_flops(
        filled.shape,
        num_items=counted["items"],
        num_tokens=counted["tokens"],
        num_token_pairs=counted["token_pairs"],
        trains=training.trains,
    )
    # torch counts a causal product in full, so the half that we leave out comes on top: forward and backward, 4 layers,
    # scores and values, width 64.
    masked_half = 3 * 4 * (2 * 2 * 64 * counted["token_pairs"]) / 2
    assert counted["flops"] == pytest.approx(sum(ours.values()) + masked_half, rel=5e-3)
