"""An independent referee: `transformers` runs the same model, weights and samples, and says what gradients ought to be.

Layouts are held against the baseline, so a mistake that every layout makes would pass; it does not pass here. Nothing
of ours computes on this side: samples are padded and labelled in `transformers`' own way and scored by its own loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mimo_bench.model import LanguageShape, ModelShape, VisionShape
from mimo_bench.trainer.data.sample import PAD, Text

Tensors = Mapping[str, torch.Tensor]

UNUSED = {"model.vision_tower.post_layernorm.weight", "model.vision_tower.post_layernorm.bias"}
"""CLIP's final norm serves its pooled output, which LLaVA does not read: `transformers` builds it, we do not."""

CLASS_TOKEN = "model.vision_tower.embeddings.class_embedding"

NOT_SCORED = -100
"""A label that `transformers` leaves out of the loss."""

FLOOR_SHARE = 1e-3
"""Of its module's gradient norm: what a gradient that ought to be zero is measured against.

A key bias shifts all scores of a query alike, which a softmax does not see: its gradient is zero but for rounding.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What one forward and backward pass over a global batch leaves."""

    loss: float
    gradients: Tensors
    """By the names of `transformers`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deviation:
    """How far a pass is from the referee's, relative."""

    loss: float
    gradients: Mapping[str, float]

    @property
    def worst_gradient(self) -> tuple[str, float]:
        """The parameter whose gradient is furthest off, and by how much."""
        return max(self.gradients.items(), key=lambda item: item[1])

    @property
    def largest(self) -> float:
        """The largest of all errors, of loss and gradients."""
        return max(self.loss, self.worst_gradient[1])


def build_referee(
    shape: ModelShape, weights: Tensors, *, dtype: torch.dtype = torch.float64, **vision: Any
) -> LlavaForConditionalGeneration:
    """The model of `transformers`.

    Args:
        shape: of our model.
        weights: by the names of `transformers`.
        dtype: what it computes in; its RMSNorm, rotary angles and loss stay in float32 whatever is asked for.
        **vision: fields of CLIPVisionConfig to set differently, where a test wants another model.
    """
    model: LlavaForConditionalGeneration = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**_vision_config(shape.vision) | vision),
            text_config=LlamaConfig(**_language_config(shape.language)),
            image_token_index=shape.language.image_token_id,
            projector_hidden_act="gelu",
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
    )
    model.to(dtype)  # type: ignore[arg-type]  # transformers' wrapper of `to` is annotated as if it were not bound
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) == UNUSED, missing
    assert not unexpected, unexpected
    return model


def _vision_config(shape: VisionShape) -> dict[str, Any]:
    return {
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "layer_norm_eps": shape.norm_epsilon,
        "hidden_act": "quick_gelu",
    }


def _language_config(shape: LanguageShape) -> dict[str, Any]:
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_query_groups,
        "max_position_embeddings": shape.max_sequence_length,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rotary_base},
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


def run_referee(model: LlavaForConditionalGeneration, samples: Iterable[tuple[torch.Tensor, Text]]) -> Pass:
    """Forward and backward over all samples at once; the loss is the mean over all answer tokens."""
    pixels, texts = zip(*samples, strict=True)
    pad = torch.nn.utils.rnn.pad_sequence
    output = model(
        pixel_values=torch.cat(pixels).to(model.dtype),
        input_ids=pad([text.tokens for text in texts], batch_first=True, padding_value=PAD),
        labels=pad(
            [text.tokens.where(text.is_answer, NOT_SCORED) for text in texts],
            batch_first=True,
            padding_value=NOT_SCORED,
        ),
    )
    model.zero_grad()
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name for name, _ in model.named_parameters()} - set(gradients) == UNUSED
    return Pass(loss=output.loss.item(), gradients=gradients)


def deviation(ours: Pass, referee: Pass) -> Deviation:
    """How far `ours` is from the referee's pass.

    A gradient's error is the norm of the difference, relative to the larger of the gradient's own norm and
    FLOOR_SHARE of its module's.
    """
    assert set(ours.gradients) == set(referee.gradients), set(ours.gradients) ^ set(referee.gradients)
    squares: defaultdict[str, float] = defaultdict(float)
    for name, expected in referee.gradients.items():
        squares[_module(name)] += float(expected.norm()) ** 2
    errors = {}
    for name, expected in referee.gradients.items():
        floor = FLOOR_SHARE * squares[_module(name)] ** 0.5
        errors[name] = float((ours.gradients[name] - expected).norm()) / max(float(expected.norm()), floor)
    return Deviation(loss=abs(ours.loss - referee.loss) / abs(referee.loss), gradients=errors)


def _module(name: str) -> str:
    return "language" if name.startswith(("model.language_model.", "lm_head.")) else "vision"


# Our canonical parameters, and those of `transformers` that are stacked in each. Renaming and splitting is linear, so
# weights and gradients go the same way.


def to_transformers(shape: ModelShape, tensors: Tensors) -> dict[str, torch.Tensor]:
    """Our full tensors under the names and in the shapes of `transformers`; all of ours are needed, and no other."""
    theirs: dict[str, torch.Tensor] = {}
    for module, stacked in (("vision", _vision_names(shape.vision)), ("language", _language_names(shape.language))):
        ours = {name for name in tensors if name.startswith(f"{module}.")}
        assert ours == set(stacked), ours ^ set(stacked)
        for name, parts in stacked.items():
            theirs |= zip(parts, _split(tensors[name], len(parts), shape.modules[module]), strict=True)
    theirs[CLASS_TOKEN] = theirs[CLASS_TOKEN].flatten()  # ours is [1, 1, h]
    return theirs


def _split(tensor: torch.Tensor, num_parts: int, shape: VisionShape | LanguageShape) -> Iterable[torch.Tensor]:
    if num_parts < 3:
        return tensor.chunk(num_parts)
    # Rows lie group by group: the queries of the group's heads, its key, its value.
    heads = shape.num_attention_heads // shape.num_query_groups
    size = shape.hidden_size // shape.num_attention_heads
    grouped = tensor.unflatten(0, (shape.num_query_groups, heads + 2, size))
    return (part.flatten(0, 2) for part in grouped.split([heads, 1, 1], dim=1))


def _vision_names(shape: VisionShape) -> dict[str, tuple[str, ...]]:
    vit, tower = "vision.encoders.clip.vit", "model.vision_tower"
    projector, theirs = "vision.input_projections.0.encoder", "model.multi_modal_projector"
    names: dict[str, tuple[str, ...]] = {
        f"{vit}.class_token": (CLASS_TOKEN,),
        f"{vit}.conv1.weight": (f"{tower}.embeddings.patch_embedding.weight",),
        f"{vit}.position_embeddings.weight": (f"{tower}.embeddings.position_embedding.weight",),
    }
    for kind in ("weight", "bias"):
        names[f"{vit}.ln_pre.{kind}"] = (f"{tower}.pre_layrnorm.{kind}",)
        names[f"{projector}.linear_fc1.{kind}"] = (f"{theirs}.linear_1.{kind}",)
        names[f"{projector}.linear_fc2.{kind}"] = (f"{theirs}.linear_2.{kind}",)
        for index in range(shape.num_layers):
            names |= _layer_names(
                f"{vit}.decoder.layers.{index}",
                f"{tower}.encoder.layers.{index}",
                kind,
                {
                    "input_layernorm": ("layer_norm1",),
                    "self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    "self_attention.linear_proj": ("self_attn.out_proj",),
                    "pre_mlp_layernorm": ("layer_norm2",),
                    "mlp.linear_fc1": ("mlp.fc1",),
                    "mlp.linear_fc2": ("mlp.fc2",),
                },
            )
    return names


def _language_names(shape: LanguageShape) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {
        "language.embedding.word_embeddings.weight": ("model.language_model.embed_tokens.weight",),
        "language.decoder.final_layernorm.weight": ("model.language_model.norm.weight",),
        "language.output_layer.weight": ("lm_head.weight",),
    }
    for index in range(shape.num_layers):
        names |= _layer_names(
            f"language.decoder.layers.{index}",
            f"model.language_model.layers.{index}",
            "weight",
            {
                "input_layernorm": ("input_layernorm",),
                "self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                "self_attention.linear_proj": ("self_attn.o_proj",),
                "pre_mlp_layernorm": ("post_attention_layernorm",),
                "mlp.linear_fc1": ("mlp.gate_proj", "mlp.up_proj"),
                "mlp.linear_fc2": ("mlp.down_proj",),
            },
        )
    return names


def _layer_names(ours: str, theirs: str, kind: str, parts: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {f"{ours}.{one}.{kind}": tuple(f"{theirs}.{part}.{kind}" for part in many) for one, many in parts.items()}
