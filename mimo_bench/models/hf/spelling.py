"""Names in checkpoints: prefixes of a model's components, and tensors that are known and not built."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mimo_bench.models.shape import ModelShape
from mimo_bench.models.table import Component
from mimo_bench.util import WeightsError

PREFIXES: dict[Component, tuple[str, ...]] = {
    "vision_tower": (
        "vision_tower.", "vision_tower.vision_model.", "model.vision_tower.", "model.vision_tower.vision_model.",
    ),
    "audio_tower": ("audio_tower.", "model.audio_tower."),
    "projector": ("multi_modal_projector.", "model.multi_modal_projector."),
    "language_model": ("language_model.model.", "model.language_model."),
    "lm_head": ("language_model.lm_head.", "lm_head."),
}  # fmt: skip
"""How checkpoints spell the parts of a model; `transformers` 5 writes the first and reads them all."""

Spelling = dict[Component, str]
"""The prefix that a checkpoint uses for each component it has."""

DEFAULT_SPELLING: Spelling = {component: prefixes[0] for component, prefixes in PREFIXES.items()}

_NOT_BUILT = re.compile(r"embeddings\.position_ids|post_layernorm\..+|head\..+|.*rotary_emb\.inv_freq")
"""Names inside vision tower and language model of what `transformers` has and nothing that is trained depends on."""
_VISION_LAYER = re.compile(r"encoder\.layers\.(\d+)\..+")


_WRAPPERS = {
    "module": "DistributedDataParallel; save its `module`",
    "_orig_mod": "torch.compile; save its `_orig_mod`",
    "_fsdp_wrapped_module": "FSDP; save its full state dict",
    "_checkpoint_wrapped_module": "activation checkpointing; save the module inside",
    "base_layer": "PEFT; save what merge_and_unload() returns",
    "lora_A": "PEFT; save what merge_and_unload() returns",
    "base_model": "PEFT; save what merge_and_unload() returns",
    "mm_projector": "the original LLaVA repository; use a checkpoint that was converted for `transformers`",
}
"""Pieces of names that no model of `transformers` has, and the program or wrapper that adds them."""


def refuse_wrapped(names: Iterable[str]) -> None:
    """Refuse tensors that were saved with the names of a wrapper.

    Raises:
        WeightsError: naming the tensor, the wrapper and the remedy.
    """
    for name in names:
        for piece in name.split("."):
            if piece in _WRAPPERS:
                raise WeightsError(f"tensor {name}: {piece!r} is a name of {_WRAPPERS[piece]}")


def is_known_beyond(name: str, *, shape: ModelShape, spelling: Spelling) -> bool:
    """Return True if a tensor of a checkpoint is one that `transformers` has and we do not build."""
    for component in ("vision_tower", "language_model"):
        if name.startswith(prefix := spelling[component]):
            inner = name.removeprefix(prefix)
            if component == "vision_tower" and (match := _VISION_LAYER.fullmatch(inner)):
                return shape.vision is not None and int(match[1]) >= shape.vision.num_layers
            return _NOT_BUILT.fullmatch(inner) is not None
    return False


def unread(shape: ModelShape, spelling: Spelling) -> list[str]:
    """Return the tensors that `transformers` expects of every model and never reads."""
    names = ("post_layernorm.weight", "post_layernorm.bias") if shape.vision is not None else ()
    return [spelling["vision_tower"] + name for name in names]


def find_spelling(tensors: Iterable[tuple[Component, str]], names: set[str]) -> Spelling:
    """Return the spelling of a checkpoint that holds `names`, by the first of each component's `tensors`.

    Raises:
        WeightsError: a component is not there under any known spelling.
    """
    spelling = dict(DEFAULT_SPELLING)
    seen: set[Component] = set()
    for component, tensor in tensors:
        if component not in seen:
            candidates = [prefix + tensor for prefix in PREFIXES[component]]
            if (found := next((name for name in candidates if name in names), None)) is None:
                raise WeightsError(f"tensor {' or '.join(candidates)} is missing; name a checkpoint that is complete")
            spelling[component] = found.removesuffix(tensor)
            seen.add(component)
    return spelling
