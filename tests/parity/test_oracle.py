"""The baseline is right: `transformers`, running the same weights and samples, gets the same loss and gradients.

CLIP with LLaMA and SigLIP with Qwen2 in six layouts each, Mistral in two, Mixtral in three; three modules are in
`test_oracle_audio.py`.
Measured, fp32 on the CPU against `transformers` in float64: logits agree to 9e-7, the loss to 1.2e-7, the gradient of
every parameter to 2.9e-6, its update over three AdamW steps to 1.6e-5, of which float32 weights round up to 7e-6. The
largest errors are those of key biases, which are zero in theory without rotary positions and small with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch

from mimo_bench.launch import Launcher
from mimo_bench.layout.settings import Settings
from mimo_bench.layout.tables import GridTable, LayoutTable
from tests.support import oracle
from tests.support.checkpoints import CONFIGS
from tests.support.oracle import Samples
from tests.support.oracle_job import NUM_STEPS, Run, run_layout, samples_of, scenario_of
from tests.support.pairs import Case, Facets, facets_of, pairwise_cover, parameters

BOUND = 1e-5
"""On the relative error of the loss and of each parameter's gradient."""

UPDATE_BOUND = 5e-5
"""On the relative error of each parameter's update over three AdamW steps."""

ONE_RANK = "one-rank"

LAYOUTS = (
    LayoutTable(name=ONE_RANK, vision=GridTable(), language=GridTable()),
    LayoutTable(name="colocated-vision-tp2-language-dp2", vision=GridTable(tp=2), language=GridTable(dp=2)),
    LayoutTable(
        name="colocated-vision-dp2-language-tp2",
        vision=GridTable(dp=2),
        language=GridTable(tp=2),
        settings=Settings(sequence_parallel=True),
    ),
    LayoutTable(name="vision-1--language-dp2", vision=GridTable(), language=GridTable(dp=2, rank_offset=1)),
    LayoutTable(
        name="vision-dp2--language-tp2",
        vision=GridTable(dp=2),
        language=GridTable(tp=2, rank_offset=2),
        settings=Settings(sequence_parallel=True),
    ),
    LayoutTable(
        name="vision-tp2--language-tp2-pp2", vision=GridTable(tp=2), language=GridTable(tp=2, pp=2, rank_offset=2)
    ),
)


LAYOUTS_OF_EXPERTS = (
    LAYOUTS[0],
    LayoutTable(
        name="colocated-vision-dp4-language-tp2-dp2-ep4",
        vision=GridTable(dp=4),
        language=GridTable(tp=2, dp=2, ep=4),
        settings=Settings(sequence_parallel=True),
    ),
    LayoutTable(
        name="vision-1--language-pp2-dp2-ep2", vision=GridTable(), language=GridTable(pp=2, dp=2, ep=2, rank_offset=1)
    ),
)
LLAVA, MIXTRAL = "clip_llama", "clip_mixtral"
SCENARIOS = {family: scenario_of(family, LAYOUTS) for family in (LLAVA, "siglip_qwen2", "clip_mistral")}
SCENARIOS[MIXTRAL] = scenario_of(MIXTRAL, LAYOUTS_OF_EXPERTS)
NAMES = [(family, table.name) for family in (LLAVA, "siglip_qwen2") for table in LAYOUTS]
# Mistral is LLaMA with other numbers: the simplest layout and the most divided one.
NAMES += [("clip_mistral", LAYOUTS[0].name), ("clip_mistral", LAYOUTS[-1].name)]
NAMES += [(MIXTRAL, table.name) for table in LAYOUTS_OF_EXPERTS]
CASES: dict[Case, Facets] = {
    (family, name): facets_of(SCENARIOS[family].table(name), family=family) for family, name in NAMES
}
COVER = pairwise_cover(CASES, {case: SCENARIOS[case[0]].table(case[1]).grids().world_size for case in CASES})
SHAPE = SCENARIOS[LLAVA].shape
CONFIG = CONFIGS / f"{LLAVA}.json"


@pytest.fixture(scope="module")
def run_any(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Run]:
    """Run the one pass of a family's layout, once for all tests."""

    @cache
    def run_once(family: str, layout: str) -> Run:
        return run_layout(launcher, SCENARIOS[family], layout, tmp_path_factory.mktemp(layout))

    return run_once


@pytest.fixture(scope="module")
def run(run_any: Callable[[str, str], Run]) -> Callable[[str], Run]:
    """The same for the LLaVA family."""
    return partial(run_any, LLAVA)


@pytest.fixture(scope="module")
def samples() -> Samples:
    """The samples of the LLaVA family."""
    return samples_of(SCENARIOS[LLAVA])


@pytest.fixture(scope="module")
def referee_of(run_any: Callable[[str, str], Run]) -> Callable[[str], oracle.Pass]:
    """What `transformers` gets from the weights of a family's one-rank layout, once for all tests."""

    @cache
    def referee(family: str) -> oracle.Pass:
        model = oracle.build_referee(CONFIGS / f"{family}.json", run_any(family, ONE_RANK).weights)
        return oracle.run_referee(model, samples_of(SCENARIOS[family]))

    return referee


@pytest.fixture(scope="module")
def trained_of(run_any: Callable[[str, str], Run]) -> Callable[[str], oracle.Trained]:
    """What three steps of torch's AdamW make of the model of `transformers`, once for all tests."""

    @cache
    def train(family: str) -> oracle.Trained:
        scenario, weights = SCENARIOS[family], run_any(family, ONE_RANK).weights
        return oracle.train_referee(
            oracle.build_referee(CONFIGS / f"{family}.json", weights),
            weights,
            [samples_of(scenario, step) for step in range(NUM_STEPS)],
            scenario.training,
        )

    return train


@pytest.fixture(scope="module")
def referee(referee_of: Callable[[str], oracle.Pass]) -> oracle.Pass:
    """The same for the LLaVA family."""
    return referee_of(LLAVA)


@pytest.mark.parametrize(("family", "layout"), parameters(CASES, COVER))
def test_a_layout_gets_the_loss_and_every_gradient_that_transformers_gets(
    family: str, layout: str, run_any: Callable[[str, str], Run], referee_of: Callable[[str], oracle.Pass]
) -> None:
    ours = run_any(family, layout)
    for name, weight in run_any(family, ONE_RANK).weights.items():
        assert torch.equal(ours.weights[name], weight), name
    deviation = oracle.deviation(ours.result, referee_of(family))
    assert deviation.logits <= BOUND
    assert deviation.loss <= BOUND
    assert deviation.worst_gradient[1] <= BOUND, deviation.worst_gradient


@pytest.mark.parametrize(("family", "layout"), parameters(CASES, COVER))
def test_three_adamw_steps_make_of_every_parameter_what_torch_makes_of_it(
    family: str,
    layout: str,
    run_any: Callable[[str, str], Run],
    referee_of: Callable[[str], oracle.Pass],
    trained_of: Callable[[str], oracle.Trained],
) -> None:
    ours, referee = run_any(family, layout), trained_of(family)
    assert ours.losses == pytest.approx(referee.losses, rel=BOUND)
    errors = oracle.update_errors(ours.updates, referee, uncompared=oracle.zero_gradients(referee_of(family)))
    assert max(errors.values()) <= UPDATE_BOUND, max(errors.items(), key=lambda item: item[1])


@pytest.mark.parametrize("family", SCENARIOS)
def test_only_key_biases_without_rotary_positions_have_a_gradient_of_zero(
    family: str, referee_of: Callable[[str], oracle.Pass]
) -> None:
    num_layers = SCENARIOS[family].shape.encoders["vision"].num_layers
    key_biases = {f"model.vision_tower.encoder.layers.{index}.self_attn.k_proj.bias" for index in range(num_layers)}
    assert oracle.zero_gradients(referee_of(family)) == key_biases


@pytest.mark.parametrize("family", SCENARIOS)
def test_what_transformers_has_and_we_have_not_gets_no_gradient(
    family: str, run_any: Callable[[str, str], Run], referee_of: Callable[[str], oracle.Pass]
) -> None:
    weights = run_any(family, ONE_RANK).weights
    model = oracle.build_referee(CONFIGS / f"{family}.json", weights)
    beyond = SCENARIOS[family].shape.encoders["vision"].num_layers
    missing = {name for name, _ in model.named_parameters()} - set(weights)
    # SigLIP's head pools, as CLIP's final norm serves its pooling; the layers are those behind the feature layer.
    behind = ("post_layernorm", "head", *(f"encoder.layers.{index}" for index in range(beyond, beyond + 2)))
    assert missing
    assert all(name.startswith(tuple(f"model.vision_tower.{part}." for part in behind)) for name in missing)
    assert not missing & set(referee_of(family).gradients)


def test_transformers_in_float32_is_no_nearer_to_float64_than_we_are(
    run: Callable[[str], Run], samples: Samples, referee: oracle.Pass
) -> None:
    in_float32 = oracle.run_referee(oracle.build_referee(CONFIG, run(ONE_RANK).weights, dtype=torch.float32), samples)
    # Both only round, in another order: half and double would still be luck.
    assert oracle.deviation(run(ONE_RANK).result, referee).largest <= 2 * oracle.deviation(in_float32, referee).largest


# The oracle sees mistakes: each of these referees makes one that a trainer could have made.


def positions_rolled(weights: oracle.Tensors) -> oracle.Tensors:
    """The class token stands last: every patch gets its neighbour's position."""
    name = "model.vision_tower.embeddings.position_embedding.weight"
    return {**weights, name: weights[name].roll(1, dims=0)}


def heads_swapped(weights: oracle.Tensors) -> oracle.Tensors:
    """Two query heads of one layer sit in the other's place."""
    name = "model.language_model.layers.2.self_attn.q_proj.weight"
    heads = weights[name].unflatten(0, (SHAPE.language.num_attention_heads, -1))
    return {**weights, name: heads[[1, 0, *range(2, len(heads))]].flatten(0, 1)}


def gate_and_up_swapped(weights: oracle.Tensors) -> oracle.Tensors:
    """One MLP takes its two stacked projections for each other."""
    gate, up = (f"model.language_model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up"))
    return {**weights, gate: weights[up], up: weights[gate]}


@pytest.mark.parametrize("mistake", [positions_rolled, heads_swapped, gate_and_up_swapped])
def test_misplaced_weights_are_seen(
    mistake: Callable[[oracle.Tensors], oracle.Tensors], run: Callable[[str], Run], samples: Samples
) -> None:
    ours = run(ONE_RANK)
    mistaken = oracle.run_referee(oracle.build_referee(CONFIG, mistake(ours.weights)), samples)
    assert oracle.deviation(ours.result, mistaken).worst_gradient[1] > 100 * BOUND


def images_of_the_neighbour(samples: Samples) -> Samples:
    """Every sample's image goes to the next sample."""
    pixels, texts = zip(*samples, strict=True)
    return list(zip([pixels[-1], *pixels[:-1]], texts, strict=True))


def prompts_scored_too(samples: Samples) -> Samples:
    """The loss counts every text token, not the answers alone."""
    image = SHAPE.special_tokens["vision"]
    return [(pixels, replace(text, is_answer=text.tokens != image)) for pixels, text in samples]


def last_sample_lost(samples: Samples) -> Samples:
    """One sample of the global batch is left out."""
    return samples[:-1]


@pytest.mark.parametrize("mistake", [images_of_the_neighbour, prompts_scored_too, last_sample_lost])
def test_samples_that_are_fed_wrongly_are_seen(
    mistake: Callable[[Samples], Samples], run: Callable[[str], Run], samples: Samples
) -> None:
    ours = run(ONE_RANK)
    mistaken = oracle.run_referee(oracle.build_referee(CONFIG, ours.weights), mistake(samples))
    deviation = oracle.deviation(ours.result, mistaken)
    assert deviation.loss > 10 * BOUND
    assert deviation.worst_gradient[1] > 100 * BOUND


@pytest.mark.parametrize("other", [{"hidden_act": "gelu"}, {"layer_norm_eps": 1e-3}, {"num_attention_heads": 8}])
def test_another_vision_model_is_seen(other: dict[str, Any], run: Callable[[str], Run], samples: Samples) -> None:
    ours = run(ONE_RANK)
    another = oracle.run_referee(oracle.build_referee(CONFIG, ours.weights, vision=other), samples)
    assert oracle.deviation(ours.result, another).worst_gradient[1] > 100 * BOUND


@pytest.mark.parametrize(
    "other",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"sliding_window": 16},
        {"rms_norm_eps": 1e-4},
    ],
)
def test_another_language_model_is_seen(other: dict[str, Any], run_any: Callable[[str, str], Run]) -> None:
    ours = run_any("clip_mistral", ONE_RANK)
    model = oracle.build_referee(CONFIGS / "clip_mistral.json", ours.weights, text=other)
    another = oracle.run_referee(model, samples_of(SCENARIOS["clip_mistral"]))
    assert oracle.deviation(ours.result, another).worst_gradient[1] > 100 * BOUND


def experts_swapped(weights: oracle.Tensors) -> oracle.Tensors:
    """In one layer, two experts get each other's positions."""
    names = [f"model.language_model.layers.2.mlp.experts.{part}" for part in ("gate_up_proj", "down_proj")]
    return {**weights, **{name: weights[name][[1, 0, 2, 3]] for name in names}}


@pytest.mark.parametrize(
    ("mistake", "other"), [(experts_swapped, {}), (dict, {"num_experts_per_tok": 3})], ids=["swapped", "one more"]
)
def test_other_experts_are_seen(
    mistake: Callable[[oracle.Tensors], oracle.Tensors], other: dict[str, Any], run_any: Callable[[str, str], Run]
) -> None:
    ours = run_any(MIXTRAL, ONE_RANK)
    model = oracle.build_referee(CONFIGS / f"{MIXTRAL}.json", mistake(ours.weights), text=other)
    another = oracle.run_referee(model, samples_of(SCENARIOS[MIXTRAL]))
    assert oracle.deviation(ours.result, another).worst_gradient[1] > 100 * BOUND


def test_one_gradient_off_by_a_ten_thousandth_is_seen_and_named(
    run: Callable[[str], Run], referee: oracle.Pass
) -> None:
    ours = run(ONE_RANK)
    name = "model.vision_tower.encoder.layers.3.mlp.fc1.weight"
    scaled = oracle.Pass(
        loss=ours.result.loss,
        gradients={**ours.result.gradients, name: ours.result.gradients[name] * 1.0001},
        logits=ours.result.logits,
    )
    worst, error = oracle.deviation(scaled, referee).worst_gradient
    assert worst == name
    assert error == pytest.approx(1e-4, rel=0.05)


def test_a_gradient_that_ought_to_be_zero_is_measured_against_its_module() -> None:
    # Vision: norm 5, so a floor of 0.005. Language: 0.004 off of 2.
    expected = {"model.vision_tower.a": [3.0, 4.0], "model.vision_tower.b": [0.0, 0.0], "lm_head.weight": [2.0, 0.0]}
    found = {"model.vision_tower.a": [3.0, 4.0], "model.vision_tower.b": [0.0, 0.001], "lm_head.weight": [2.0, 0.004]}
    ours, referee = (
        oracle.Pass(
            loss=loss,
            gradients={name: torch.tensor(values) for name, values in gradients.items()},
            logits={0: torch.ones(1, 2), 1: torch.tensor([[3.0, 4.0 + off]])},
        )
        for loss, gradients, off in ((2.02, found, 0.1), (2.0, expected, 0.0))
    )
    deviation = oracle.deviation(ours, referee)
    assert deviation.loss == pytest.approx(0.01)
    assert deviation.logits == pytest.approx(0.02)
    assert deviation.gradients == {
        "model.vision_tower.a": 0.0,
        "model.vision_tower.b": pytest.approx(0.2),
        "lm_head.weight": pytest.approx(0.002),
    }
    assert deviation.worst_gradient[0] == "model.vision_tower.b"
