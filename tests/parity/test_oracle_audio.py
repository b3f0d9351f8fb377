"""Vision, audio and language are right together: what `transformers` makes of the same weights and samples, we make.

No class of `transformers` reads images and sound, so its LLaVA gets the output of its Whisper encoder and of Voxtral's
projector among its embeddings. Six layouts, fp32 on the CPU against float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, VoxtralConfig, WhisperConfig
from transformers.models.voxtral.modeling_voxtral import VoxtralMultiModalProjector
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mimo_bench.data.dataset import PAD
from mimo_bench.launch import Launcher
from mimo_bench.layout.settings import Settings
from mimo_bench.layout.tables import GridTable, LayoutTable
from mimo_bench.models import ModelShape
from mimo_bench.scenario.scenario import Scenario
from tests.support import oracle
from tests.support.oracle_job import NUM_STEPS, TRAINING, Run, dataset_of, ids_of, run_layout

BOUND = 1e-5
"""On the relative error of logits, of the loss and of each parameter's gradient."""
UPDATE_BOUND = 5e-5
"""On the relative error of each parameter's update over three AdamW steps."""

ONE_RANK = "one-rank"
ONE = GridTable()
LAYOUTS = (
    LayoutTable(name=ONE_RANK, vision=ONE, audio=ONE, language=ONE),
    LayoutTable(
        name="one-span",
        vision=GridTable(dp=2),
        audio=GridTable(tp=2),
        language=GridTable(tp=2),
        settings=Settings(sequence_parallel=True),
    ),
    LayoutTable(name="one-span-fan-out", vision=GridTable(tp=2), audio=GridTable(dp=2), language=GridTable(dp=2)),
    LayoutTable(
        name="three-spans", vision=ONE, audio=GridTable(rank_offset=1), language=GridTable(dp=2, rank_offset=2)
    ),
    LayoutTable(
        name="encoders-on-one-span",
        vision=GridTable(dp=2),
        audio=GridTable(tp=2),
        language=GridTable(tp=2, rank_offset=2),
    ),
    LayoutTable(
        name="language-first-pp2",
        language=GridTable(pp=2),
        vision=GridTable(rank_offset=2),
        audio=GridTable(rank_offset=2),
    ),
)
SCENARIO = Scenario(
    question="Do three modules compute what transformers computes?",
    model="llava-audio-tiny",
    global_batch_size=8,
    global_micro_batch_size=4,
    seq_length=48,
    training=TRAINING,
    baseline=ONE_RANK,
    layout=LAYOUTS,
)
AUDIO_TOKEN = 254
WIDTH, MLP, NUM_HEADS = 64, 256, 4
Samples = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]
"""Image, clip, tokens and labels of each sample."""


class Referee(torch.nn.Module):
    """LLaVA of `transformers`, with what its Whisper and its Voxtral make of clips among the embeddings."""

    def __init__(self, **audio: int) -> None:
        """The model of llava-audio-tiny; `audio` are fields of Whisper's configuration to set differently."""
        super().__init__()
        vision = {"hidden_size": WIDTH, "intermediate_size": 128, "image_size": 16, "patch_size": 4}
        depth = {"num_hidden_layers": 4, "num_attention_heads": 4}
        text = {"hidden_size": WIDTH, "intermediate_size": 128, "vocab_size": 256, "rms_norm_eps": 1e-5}
        heads = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
        self.llava = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config={"model_type": "clip_vision_model", **vision, **depth},
                text_config={"model_type": "llama", "max_position_embeddings": 512, **text, **heads},
                image_token_index=255,
                vision_feature_layer=-1,
            )
        )
        sizes = {"d_model": WIDTH, "encoder_ffn_dim": MLP, "encoder_layers": 4, "encoder_attention_heads": NUM_HEADS}
        frames = {"num_mel_bins": 16, "max_source_positions": 32}
        self.audio_tower = WhisperEncoder(WhisperConfig.from_dict({**sizes, **frames, **audio}))
        joined = {"audio_config": {"hidden_size": WIDTH, "intermediate_size": MLP}, "text_config": {**text, **heads}}
        self.audio_projector = VoxtralMultiModalProjector(VoxtralConfig.from_dict(joined))

    def forward(self, samples: Samples) -> Any:
        """Logits, and the mean loss over all answer tokens."""
        images, clips, tokens, labels = zip(*samples, strict=True)
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad(list(tokens), batch_first=True, padding_value=PAD)
        embeddings = self.llava.get_input_embeddings()(ids)
        heard = self.audio_tower(torch.cat(clips).double()).last_hidden_state.reshape(-1, MLP)
        is_audio = (ids == AUDIO_TOKEN)[..., None].expand_as(embeddings)
        return self.llava(
            inputs_embeds=embeddings.masked_scatter(is_audio, self.audio_projector(heard)),
            pixel_values=torch.cat(images).double(),
            labels=pad(list(labels), batch_first=True, padding_value=oracle.NOT_SCORED),
        )


def build_referee(weights: oracle.Tensors, **audio: int) -> tuple[Referee, dict[str, torch.nn.Parameter]]:
    """The referee in float64 with `weights`, and its parameters by the names of `transformers`."""
    model = Referee(**audio).double()
    names = {_shared(name): parameter for name, parameter in model.named_parameters()}
    assert set(names) == set(weights) | UNREAD
    with torch.no_grad():
        for name, weight in weights.items():
            names[name].copy_(weight)
    return model, names


def run_referee(weights: oracle.Tensors, samples: Samples, **audio: int) -> oracle.Pass:
    """Forward and backward of `transformers` over all samples at once."""
    model, names = build_referee(weights, **audio)
    output = model(samples)
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in names.items() if parameter.grad is not None}
    logits = {k: output.logits[k, : len(tokens)].detach() for k, (_, _, tokens, _) in enumerate(samples)}
    return oracle.Pass(loss=output.loss.item(), gradients=gradients, logits=logits)


UNREAD = {f"model.vision_tower.post_layernorm.{kind}" for kind in ("weight", "bias")}
"""Of CLIP's pooling, which LLaVA leaves out."""


def _shared(name: str) -> str:
    return name.removeprefix("llava.") if name.startswith("llava.") else f"model.{name}"


def to_transformers(shape: ModelShape, tensors: oracle.Tensors) -> dict[str, torch.Tensor]:
    """Our full tensors under the names of the referee."""
    audio = {name: tensor for name, tensor in tensors.items() if name.startswith("audio.")}
    rest = {name: tensor for name, tensor in tensors.items() if name not in audio}
    theirs = oracle.to_transformers(shape, rest)
    for name, parts in audio_names().items():
        if name in audio:
            tensor = audio.pop(name)
            theirs |= zip(parts, _split(tensor, len(parts)) if len(parts) > 1 else [tensor], strict=True)
    assert not audio, audio.keys()
    return theirs


def _split(tensor: torch.Tensor, num_parts: int) -> Iterable[torch.Tensor]:
    # Head by head: query, key and value of the weights, query and value of the biases.
    return (
        (part.flatten(0, 1) for part in tensor.unflatten(0, (4, num_parts, -1)).unbind(1))
        if num_parts > 1
        else [tensor]
    )


def audio_names() -> dict[str, tuple[str, ...]]:
    """Our parameters of the audio module, and those of `transformers` that are stacked in each."""
    ours, theirs = "audio.encoder", "model.audio_tower"
    names: dict[str, tuple[str, ...]] = {f"{ours}.embed_positions": (f"{theirs}.embed_positions.weight",)}
    for index in (1, 2):
        names[f"audio.projector.linear_fc{index}.weight"] = (f"model.audio_projector.linear_{index}.weight",)
    whole = {"conv1": "conv1", "conv2": "conv2", "decoder.final_layernorm": "layer_norm"}
    for index in range(4):
        layer, attention = f"{ours}.decoder.layers.{index}", f"{theirs}.layers.{index}.self_attn"
        names[f"{layer}.self_attention.linear_qkv.weight"] = tuple(f"{attention}.{part}_proj.weight" for part in "qkv")
        names[f"{layer}.self_attention.linear_qkv.query_value_bias"] = tuple(
            f"{attention}.{part}_proj.bias" for part in "qv"
        )
        parts = {
            "input_layernorm": "self_attn_layer_norm",
            "self_attention.linear_proj": "self_attn.out_proj",
            "pre_mlp_layernorm": "final_layer_norm",
            "mlp.linear_fc1": "fc1",
            "mlp.linear_fc2": "fc2",
        }
        whole |= {f"decoder.layers.{index}.{one}": f"layers.{index}.{other}" for one, other in parts.items()}
    for kind in ("weight", "bias"):
        names |= {f"{ours}.{one}.{kind}": (f"{theirs}.{other}.{kind}",) for one, other in whole.items()}
    return names


@pytest.fixture(scope="module")
def run(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """What a layout leaves, run once for all tests."""

    @cache
    def run_once(layout: str) -> Run:
        return run_layout(launcher, SCENARIO, layout, tmp_path_factory.mktemp(layout), to_transformers=to_transformers)

    return run_once


def samples_of(step: int) -> Samples:
    """The samples of a step's global batch."""
    dataset = dataset_of(SCENARIO)
    made = []
    for index in ids_of(SCENARIO, step):
        image, clip = (dataset.encoder_inputs(module, "train", index) for module in ("vision", "audio"))
        text = dataset.text("train", index)
        made.append((image, clip, text.tokens, text.tokens.where(text.is_answer, oracle.NOT_SCORED)))
    return made


@pytest.fixture(scope="module")
def samples() -> Samples:
    """The samples of the first global batch."""
    return samples_of(0)


@pytest.fixture(scope="module")
def referee(run: Callable[[str], Run], samples: Samples) -> oracle.Pass:
    """What `transformers` gets from the weights of the one-rank layout."""
    return run_referee(run(ONE_RANK).weights, samples)


@pytest.fixture(scope="module")
def trained(run: Callable[[str], Run]) -> oracle.Trained:
    """What three steps of torch's AdamW make of the model of `transformers`."""
    one = run(ONE_RANK)
    model, names = build_referee(one.weights)
    return oracle.train(
        {name: names[name] for name in one.result.gradients},
        lambda samples: model(samples).loss,
        [samples_of(step) for step in range(NUM_STEPS)],
        SCENARIO.training,
    )


@pytest.mark.parametrize("layout", SCENARIO.names)
def test_three_modules_get_the_logits_loss_and_every_gradient_that_transformers_gets(
    layout: str, run: Callable[[str], Run], referee: oracle.Pass
) -> None:
    ours = run(layout)
    for name, weight in run(ONE_RANK).weights.items():
        assert torch.equal(ours.weights[name], weight), name
    deviation = oracle.deviation(ours.result, referee)
    assert deviation.logits <= BOUND
    assert deviation.loss <= BOUND
    assert deviation.worst_gradient[1] <= BOUND, deviation.worst_gradient


@pytest.mark.parametrize("layout", SCENARIO.names)
def test_three_adamw_steps_make_of_every_parameter_what_torch_makes_of_it(
    layout: str, run: Callable[[str], Run], referee: oracle.Pass, trained: oracle.Trained
) -> None:
    ours = run(layout)
    assert ours.losses == pytest.approx(trained.losses, rel=BOUND)
    errors = oracle.update_errors(ours.updates, trained, uncompared=oracle.zero_gradients(referee))
    assert max(errors.values()) <= UPDATE_BOUND, max(errors.items(), key=lambda item: item[1])


def test_fixed_positions_get_no_gradient_and_keys_have_no_bias(run: Callable[[str], Run], referee: oracle.Pass) -> None:
    ours = run(ONE_RANK)
    assert set(ours.weights) - set(ours.result.gradients) == {"model.audio_tower.embed_positions.weight"}
    key_biases = {f"model.vision_tower.encoder.layers.{index}.self_attn.k_proj.bias" for index in range(4)}
    assert oracle.zero_gradients(referee) == key_biases


def test_clips_of_the_neighbour_and_another_whisper_are_seen(run: Callable[[str], Run], samples: Samples) -> None:
    ours = run(ONE_RANK)
    clips = [clip for _, clip, _, _ in samples]
    rolled = zip(samples, [clips[-1], *clips[:-1]], strict=True)
    swapped = [(image, clip, tokens, labels) for (image, _, tokens, labels), clip in rolled]
    for mistaken in (
        run_referee(ours.weights, swapped),
        run_referee(ours.weights, samples, encoder_attention_heads=8),
    ):
        assert oracle.deviation(ours.result, mistaken).worst_gradient[1] > 100 * BOUND
