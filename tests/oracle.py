"""An independent referee: `transformers` runs the same model, weights and samples, and says what gradients ought to be.

Layouts are held against the baseline, so a mistake that every layout makes would pass; it does not pass here. Nothing
of ours computes on this side: samples are padded and labelled in `transformers`' own way and scored by its own loss.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from mimo_bench.model import LanguageShape, ModelShape, VisionShape
from mimo_bench.trainer.data.sample import PAD, Text
from mimo_bench.training import Training

Tensors = Mapping[str, torch.Tensor]
Samples = Sequence[tuple[torch.Tensor, Text]]
"""The pixels and the text of every sample of a global batch."""

CLASS_TOKEN = "model.vision_tower.embeddings.class_embedding"

NOT_SCORED = -100
"""A label that `transformers` leaves out of the loss."""

FLOOR_SHARE = 1e-3
"""Of its module's gradient norm: what a gradient that ought to be zero is measured against.

A key bias without rotary positions shifts all scores of a query alike, which a softmax does not see: its gradient is
zero but for rounding.
"""

ZERO_SHARE = 1e-6
"""Of its module's gradient norm: less than this, in float64, is a gradient that ought to be zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What one forward and backward pass over a global batch leaves."""

    loss: float
    gradients: Tensors
    """By the names of `transformers`."""
    logits: Mapping[int, torch.Tensor] = field(default_factory=dict)
    """By sample, counted from 0: [tokens, vocabulary]; empty where they are not compared."""

    @property
    def zero_gradients(self) -> set[str]:
        """The parameters whose gradient ought to be zero."""
        norms = _module_norms(self.gradients)
        return {
            name for name, gradient in self.gradients.items() if gradient.norm() < ZERO_SHARE * norms[_module(name)]
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Deviation:
    """How far a pass is from the referee's, relative."""

    loss: float
    gradients: Mapping[str, float]
    logits: float
    """Of the sample that is furthest off: the norm of the difference, relative to the norm."""

    @property
    def worst_gradient(self) -> tuple[str, float]:
        """The parameter whose gradient is furthest off, and by how much."""
        return max(self.gradients.items(), key=lambda item: item[1])

    @property
    def largest(self) -> float:
        """The largest of all errors, of logits, loss and gradients."""
        return max(self.logits, self.loss, self.worst_gradient[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What optimizer steps leave."""

    losses: list[float]
    """Of every step, before its update."""
    updates: Tensors
    """How far every parameter went, by the names of `transformers`."""


def build_referee(
    config: Path,
    weights: Tensors,
    *,
    dtype: torch.dtype = torch.float64,
    vision: Mapping[str, Any] = MappingProxyType({}),
    text: Mapping[str, Any] = MappingProxyType({}),
) -> LlavaForConditionalGeneration:
    """The model of `transformers`, as it reads the configuration itself.

    Args:
        config: a config.json.
        weights: by the names of `transformers`.
        dtype: what it computes in; its RMSNorm, rotary angles and loss stay in float32 whatever is asked for.
        vision: fields of the vision configuration to set differently, where a test wants another model.
        text: the same of the language model's.
    """
    fields = json.loads(config.read_text(encoding="utf-8"))
    fields["vision_config"] |= vision
    fields["text_config"] |= text
    model = LlavaForConditionalGeneration(LlavaConfig.from_dict(fields))
    model.to(dtype)  # type: ignore[arg-type]  # transformers' wrapper of `to` is annotated as if it were not bound
    _, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    return model


def run_referee(model: LlavaForConditionalGeneration, samples: Samples) -> Pass:
    """Forward and backward over all samples at once; the loss is the mean over all answer tokens."""
    output = _forward(model, samples)
    model.zero_grad()
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    logits = {k: output.logits[k, : len(text.tokens)].detach() for k, (_, text) in enumerate(samples)}
    return Pass(loss=output.loss.item(), gradients=gradients, logits=logits)


def train_referee(
    model: LlavaForConditionalGeneration, trained: Iterable[str], batches: Iterable[Samples], training: Training
) -> Trained:
    """Optimizer steps on the `trained` parameters of a model; each takes all samples of a batch at once."""
    known = dict(model.named_parameters())
    return train(
        {name: known[name] for name in trained}, lambda samples: _forward(model, samples).loss, batches, training
    )


def train[Batch](
    parameters: Mapping[str, torch.nn.Parameter],
    loss_of: Callable[[Batch], torch.Tensor],
    batches: Iterable[Batch],
    training: Training,
) -> Trained:
    """Steps of torch's own AdamW, clipped by torch's own global norm.

    Everything is decayed, norms and biases too: so does our trainer.
    """
    optimizer = torch.optim.AdamW(
        parameters.values(),
        weight_decay=training.weight_decay,
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
    )
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    losses = []
    for batch in batches:
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), training.clip_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return Trained(
        losses=losses,
        updates={name: parameter.detach() - before[name] for name, parameter in parameters.items()},
    )


def update_errors(ours: Tensors, referee: Trained, *, uncompared: Container[str]) -> dict[str, float]:
    """How far each parameter's update is from the referee's: the norm of the difference, relative to the norm.

    Nothing is compared of parameters whose true gradient is zero: Adam makes steps of what rounding leaves.
    """
    assert set(ours) == set(referee.updates), set(ours) ^ set(referee.updates)
    return {
        name: float((ours[name] - expected).norm() / expected.norm())
        for name, expected in referee.updates.items()
        if name not in uncompared
    }


def _forward(model: LlavaForConditionalGeneration, samples: Samples) -> Any:
    """The model on all samples at once, padded and labelled in its own way."""
    pixels, texts = zip(*samples, strict=True)
    pad = torch.nn.utils.rnn.pad_sequence
    return model(
        pixel_values=torch.cat(pixels).to(model.dtype),
        input_ids=pad([text.tokens for text in texts], batch_first=True, padding_value=PAD),
        labels=pad(
            [text.tokens.where(text.is_answer, NOT_SCORED) for text in texts],
            batch_first=True,
            padding_value=NOT_SCORED,
        ),
    )


def deviation(ours: Pass, referee: Pass) -> Deviation:
    """How far `ours` is from the referee's pass.

    A gradient's error is the norm of the difference, relative to the larger of the gradient's own norm and
    FLOOR_SHARE of its module's.
    """
    assert set(ours.gradients) == set(referee.gradients), set(ours.gradients) ^ set(referee.gradients)
    norms = _module_norms(referee.gradients)
    errors = {}
    for name, expected in referee.gradients.items():
        floor = FLOOR_SHARE * norms[_module(name)]
        errors[name] = float((ours.gradients[name] - expected).norm()) / max(float(expected.norm()), floor)
    logits = [float((ours.logits[k] - expected).norm() / expected.norm()) for k, expected in referee.logits.items()]
    return Deviation(
        loss=abs(ours.loss - referee.loss) / abs(referee.loss), gradients=errors, logits=max(logits, default=0.0)
    )


def _module_norms(gradients: Tensors) -> dict[str, float]:
    squares: defaultdict[str, float] = defaultdict(float)
    for name, gradient in gradients.items():
        squares[_module(name)] += float(gradient.norm()) ** 2
    return {module: square**0.5 for module, square in squares.items()}


def _module(name: str) -> str:
    if name.startswith("model.audio_"):
        return "audio"
    return "language" if name.startswith(("model.language_model.", "lm_head.")) else "vision"


# Our canonical parameters, and those of `transformers` that are stacked in each. Renaming and splitting is linear, so
# weights and gradients go the same way.


def to_transformers(shape: ModelShape, tensors: Tensors) -> dict[str, torch.Tensor]:
    """Our full tensors under the names and in the shapes of `transformers`; all of ours are needed, and no other."""
    theirs: dict[str, torch.Tensor] = {}
    assert shape.vision is not None, "the referee is LLaVA"
    for module, stacked in (("vision", _vision_names(shape.vision)), ("language", _language_names(shape.language))):
        ours = {name for name in tensors if name.startswith(f"{module}.")}
        assert ours == set(stacked), ours ^ set(stacked)
        for name, parts in stacked.items():
            theirs |= zip(
                parts,
                _split(tensors[name], len(parts), shape.vision if module == "vision" else shape.language),
                strict=True,
            )
    if shape.vision.has_class_token:
        theirs[CLASS_TOKEN] = theirs[CLASS_TOKEN].flatten()  # ours is [1, 1, h]
    return theirs


def _split(tensor: torch.Tensor, num_parts: int, shape: VisionShape | LanguageShape) -> Iterable[torch.Tensor]:
    if num_parts < 3:
        return tensor.chunk(num_parts)
    # Rows lie group by group: the queries of the group's heads, its key, its value.
    heads = shape.num_attention_heads // shape.num_query_groups
    grouped = tensor.unflatten(0, (shape.num_query_groups, heads + 2, -1))
    return (part.flatten(0, 2) for part in grouped.split([heads, 1, 1], dim=1))


def _vision_names(shape: VisionShape) -> dict[str, tuple[str, ...]]:
    vit, tower = "vision.encoder.vit", "model.vision_tower"
    projector, theirs = "vision.projector", "model.multi_modal_projector"
    names: dict[str, tuple[str, ...]] = {
        f"{vit}.conv1.weight": (f"{tower}.embeddings.patch_embedding.weight",),
        f"{vit}.position_embeddings.weight": (f"{tower}.embeddings.position_embedding.weight",),
    }
    if shape.family == "clip":
        names[f"{vit}.class_token"] = (CLASS_TOKEN,)
        names |= {f"{vit}.ln_pre.{kind}": (f"{tower}.pre_layrnorm.{kind}",) for kind in ("weight", "bias")}
    else:
        names[f"{vit}.conv1.bias"] = (f"{tower}.embeddings.patch_embedding.bias",)
    parts = {
        "input_layernorm": ("layer_norm1",),
        "self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attention.linear_proj": ("self_attn.out_proj",),
        "pre_mlp_layernorm": ("layer_norm2",),
        "mlp.linear_fc1": ("mlp.fc1",),
        "mlp.linear_fc2": ("mlp.fc2",),
    }
    for kind in ("weight", "bias"):
        names |= _names(projector, theirs, kind, {"linear_fc1": ("linear_1",), "linear_fc2": ("linear_2",)})
        for index in range(shape.num_layers):
            names |= _names(f"{vit}.decoder.layers.{index}", f"{tower}.encoder.layers.{index}", kind, parts)
    return names


def _language_names(shape: LanguageShape) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {
        "language.embedding.word_embeddings.weight": ("model.language_model.embed_tokens.weight",),
        "language.decoder.final_layernorm.weight": ("model.language_model.norm.weight",),
    }
    if not shape.tied_embeddings:
        names["language.output_layer.weight"] = ("lm_head.weight",)
    qkv = {"self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}
    parts = qkv | {
        "input_layernorm": ("input_layernorm",),
        "self_attention.linear_proj": ("self_attn.o_proj",),
        "pre_mlp_layernorm": ("post_attention_layernorm",),
        "mlp.linear_fc1": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.linear_fc2": ("mlp.down_proj",),
    }
    for index in range(shape.num_layers):
        ours, theirs = f"language.decoder.layers.{index}", f"model.language_model.layers.{index}"
        names |= _names(ours, theirs, "weight", parts)
        if shape.qkv_bias:
            names |= _names(ours, theirs, "bias", qkv)
    return names


def _names(ours: str, theirs: str, kind: str, parts: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {f"{ours}.{one}.{kind}": tuple(f"{theirs}.{part}.{kind}" for part in many) for one, many in parts.items()}
