"""One table of a config.json, read strictly: every key is read, known to change nothing, or refused by name.

A refused value is replaced by one that is built and reading goes on, so that one error names every refused key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mimo_bench.util import ScenarioError

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
    """.split()  # noqa: SIM905  # sixty quoted words in a column say no more
)
"""What `transformers` writes that does not decide what is trained: weights are drawn by us, nothing is generated."""

_NOTES = re.compile(r"_.+|.+_version|(trainer|unsloth)_.+|tokenizer_.+")
"""Keys in which tools keep notes for themselves: no model of `transformers` reads them."""

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


@dataclass(kw_only=True, slots=True)
class _Findings:
    """Problems of a whole file."""

    problems: list[str] = field(default_factory=list)
    is_size_replaced: bool = False
    """True if a size is not the file's; what depends on sizes is not judged then."""


class Section:
    """A table of a config.json and its unread keys."""

    def __init__(
        self, path: Path, values: Mapping[str, Any], name: str = "", findings: _Findings | None = None
    ) -> None:
        """Read the table called `name` of the file at `path`; the outermost has no name."""
        self._path = path
        self._values = values
        self._prefix = f"{name}." if name else ""
        self._left = set(values)
        self._findings = _Findings() if findings is None else findings

    def __contains__(self, key: str) -> bool:
        """Return True if the key is there and not null."""
        return self._values.get(key) is not None

    def take(self, key: str, default: Any = None) -> Any:
        """Return the value of a key as it stands; null is a value."""
        self._left.discard(key)
        return self._values.get(key, default)

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a whole number of at least 1; a key without `default` must be there."""
        value = self.take(key, default)
        if type(value) is int and value >= 1:
            return value
        self._replace(key, "use a whole number of at least 1")
        return default or 1

    def optional_integer(self, key: str, default: int | None = None) -> int | None:
        """Return a whole number of at least 1, or None for null."""
        return None if self.take(key, default) is None else self.integer(key, default)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number above 0; a key without `default` must be there."""
        value = self.take(key, default)
        if type(value) in (int, float) and value > 0:
            return float(value)
        self._replace(key, "use a number above 0")
        return default or 1.0

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.take(key, default)
        if isinstance(value, bool):
            return value
        self._replace(key, "use true or false")
        return default

    def only(self, key: str, *built: Any, default: Any = None, why: str = "is not built") -> Any:
        """Return one of the values that are built; any other is refused because it `why`."""
        value = self.take(key, default)
        if value in built:
            return value
        self._note(key, f"{why}; use {' or '.join(map(_shown, built))}", default)
        return built[0]

    def kind(self, *built: str, default: str | None = None) -> str:
        """Return the table's `model_type`, which decides how all of it is read.

        Raises:
            ScenarioError: it is not built.
        """
        kind = self.take("model_type", default)
        if kind not in built:
            self._replace("model_type", f"is not built; use {' or '.join(map(_shown, built))}")
            self.end()
        return str(kind)

    def section(self, key: str, *, defaults: Mapping[str, Any] = MappingProxyType({})) -> Section:
        """Return the table under a key, with `defaults` for what it leaves out.

        Raises:
            ScenarioError: it is no table.
        """
        value = self.take(key)
        if not isinstance(value, dict):
            self._replace(key, "use a table, as save_pretrained of `transformers` writes it")
            self.end()
        return Section(self._path, {**defaults, **value}, f"{self._prefix}{key}", self._findings)

    def finish(self) -> None:
        """Refuse every key that was not read and might change the model."""
        for key, neutral in _NEUTRAL.items():
            if key in self._left:
                self.only(key, *neutral)
        for key in sorted(self._left - _CHANGES_NOTHING):
            if key in self and not _NOTES.fullmatch(key):
                self._note(key, "is not known here; remove it if the model is the same without it")

    def refuse(self, key: str, remedy: str, default: Any = None) -> None:
        """Note that the value of `key`, or its default, does not fit the rest of the file; reading goes on."""
        if not self._findings.is_size_replaced:
            self._note(key, remedy, default)

    def end(self) -> None:
        """Raise what was refused so far in the whole file.

        Raises:
            ScenarioError: with a line for each key.
        """
        if problems := self._findings.problems:
            raise ScenarioError("\n".join(problems))

    def _replace(self, key: str, remedy: str) -> None:
        """Note that a value is missing or of another type; reading continues with another one."""
        if key in self._values:
            self._note(key, remedy)
        else:
            self._findings.problems.append(f"{self._path}: {self._prefix}{key} is missing; add it")
        self._findings.is_size_replaced = True

    def _note(self, key: str, remedy: str, default: Any = None) -> None:
        value = _shown(self._values.get(key, default))
        self._findings.problems.append(f"{self._path}: {self._prefix}{key} = {value}: {remedy}")


def _shown(value: Any) -> str:
    return json.dumps(value)


def check_token(top: Section, key: str, token: int, *, vocab_size: int) -> None:
    """Refuse a token of items outside of the vocabulary."""
    if not 2 <= token < vocab_size:
        remedy = f"samples need words below it, and the vocabulary ends at {vocab_size}; use 2 to {vocab_size - 1}"
        top.refuse(key, remedy, token)
