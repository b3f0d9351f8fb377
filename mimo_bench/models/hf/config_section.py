"""One table of a config.json, read strictly: every key is asked for, known to change nothing, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from mimo_bench.util import ScenarioError

_MISSING: Any = object()

_CHANGES_NOTHING = frozenset(
    """
    _attn_implementation_autoset _commit_hash _name_or_path architectures attn_implementation begin_suppress_tokens
    bos_token_id chunk_size_feed_forward decoder_start_token_id dtype eos_token_id finetuning_task forced_bos_token_id
    forced_eos_token_id id2label ignore_index image_seq_length initializer_factor initializer_range label2id model_type
    output_attentions output_hidden_states pad_token_id prefix pretraining_tp problem_type projection_dim
    remove_invalid_values return_dict sep_token_id suppress_tokens task_specific_params tf_legacy_loss tokenizer_class
    torch_dtype torchscript transformers_version unk_token_id use_bfloat16 use_cache
    bad_words_ids diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_scores repetition_penalty return_dict_in_generate temperature top_k top_p typical_p
    """.split()  # noqa: SIM905  # sixty quoted words in a column tell nobody more
)
"""What `transformers` writes that does not decide what is trained: weights are drawn by us, nothing is generated."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_dropout": (0, None),
    "cross_attention_hidden_size": (None,),
    "dropout": (0, None),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "sliding_window": (None,),
    "tie_encoder_decoder": (False,),
}
"""What every table may say, as long as it asks for nothing."""


class Section:
    """A table of a config.json and the keys of it that nobody has asked for yet."""

    def __init__(self, path: Path, values: Mapping[str, Any], name: str = "") -> None:
        """The table called `name` of the file at `path`; the outermost has no name."""
        self._path = path
        self._values = values
        self._prefix = f"{name}." if name else ""
        self._left = set(values)

    def __contains__(self, key: str) -> bool:
        """Whether the key is there and says something."""
        return self._values.get(key) is not None

    def take(self, key: str, default: Any = _MISSING) -> Any:
        """The value of a key as it stands; null is a value."""
        self._left.discard(key)
        value = self._values.get(key, default)
        if value is _MISSING:
            raise ScenarioError(f"{self._path}: {self._prefix}{key} is missing; add it")
        return value

    def integer(self, key: str, default: Any = _MISSING) -> int:
        """A whole number of at least 1."""
        value = self.take(key, default)
        if type(value) is not int or value < 1:
            self.refuse(key, "use a whole number of at least 1")
        return value

    def optional_integer(self, key: str, default: int | None = None) -> int | None:
        """A whole number of at least 1, or null."""
        return None if self.take(key, default) is None else self.integer(key, default)

    def number(self, key: str, default: Any = _MISSING) -> float:
        """A number above 0."""
        value = self.take(key, default)
        if type(value) not in (int, float) or not value > 0:
            self.refuse(key, "use a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            self.refuse(key, "use true or false")
        return value

    def only(self, key: str, *built: Any, default: Any = _MISSING, why: str = "is not built") -> Any:
        """One of the values that are built; any other is refused because it `why`."""
        value = self.take(key, default)
        if value not in built:
            self.refuse(key, f"{why}; use {' or '.join(map(_shown, built))}", default)
        return value

    def section(self, key: str, *, defaults: Mapping[str, Any] = MappingProxyType({})) -> Section:
        """The table under a key, with `defaults` for what it leaves out."""
        value = self.take(key)
        if not isinstance(value, dict):
            self.refuse(key, "use a table, as save_pretrained of `transformers` writes it")
        return Section(self._path, {**defaults, **value}, f"{self._prefix}{key}")

    def finish(self) -> None:
        """Refuse whatever was not asked for and might change the model."""
        for key, neutral in _NEUTRAL.items():
            if key in self._left:
                self.only(key, *neutral)
        if unknown := sorted(self._left - _CHANGES_NOTHING):
            self.refuse(unknown[0], "is not known here; remove it if the model is the same without it")

    def refuse(self, key: str, remedy: str, default: Any = None) -> NoReturn:
        """Say that the value of `key`, or what it defaults to, cannot be, and what can.

        Raises:
            ScenarioError: always.
        """
        raise ScenarioError(f"{self._path}: {self._prefix}{key} = {_shown(self._values.get(key, default))}: {remedy}")


def _shown(value: Any) -> str:
    return json.dumps(value)


def check_token(top: Section, key: str, token: int, *, vocab_size: int) -> None:
    """Refuse a token of items outside of the vocabulary."""
    if not 2 <= token < vocab_size:
        remedy = f"samples need words below it, and the vocabulary ends at {vocab_size}; use 2 to {vocab_size - 1}"
        top.refuse(key, remedy, token)
