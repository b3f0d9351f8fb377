"""A conversation as tokens, with a mark on those that the loss scores: the answers and nothing else.

Which characters are answers is decided on the text that the processor's chat template renders: what a further assistant
turn adds to the rendered conversation before it. So it holds for any template that only ever appends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from itertools import groupby
from typing import Any, Final

import torch

from mimo_bench.data.dataset import Text
from mimo_bench.data.formats import IMAGE_PARTS, TEXT_PARTS, BadSample, short
from mimo_bench.data.processor import Tokens
from mimo_bench.models import ModelShape
from mimo_bench.util import ScenarioError, choices, counted

Message = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")
"""Those that chat templates of the field share."""


PLACEHOLDER: Final = "<image>"
"""An image in data of the field, whatever a processor calls its token."""

_SHAREGPT = {"human": "user", "gpt": "assistant"}


def roles_of(template: Any, *, renamed: Mapping[str, str]) -> dict[str, str]:
    """The roles that messages may have, and what the chat template calls each.

    They are the common ones, all words that the chat template has in quotes, so that those of its own are among them,
    such as `developer` or `ipython`, ShareGPT's, and those that a scenario has `renamed`.
    """
    # Of several templates under names, `str` writes the quotes with a backslash.
    own = {*ROLES, *re.findall(r"""['"](\w+)\\?['"]""", str(template))}
    return {**_SHAREGPT, **dict(zip(own, own, strict=True)), **renamed}


DATE: Final = date(2024, 7, 26)
"""The day of every sample: the one that templates of Llama 3 write if they are given none."""

_NOW = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


def dated(template: Any, *, where: str) -> Any:
    """Return a chat template, or several by their names, that writes `DATE` in place of today.

    Raises:
        ScenarioError: it has the date in a format that is made by the template; the message begins with `where`.
    """
    if isinstance(template, dict):
        return {name: dated(one, where=where) for name, one in template.items()}
    fixed = _NOW.sub(lambda found: json.dumps(DATE.strftime(found[2])), template)
    if "strftime_now(" in fixed:
        raise ScenarioError(
            f"{where}: the chat template writes the date in a format that is no text; write it as in "
            "strftime_now('%d %b %Y'), so that samples are the same on every day"
        )
    return fixed


def in_parts(messages: list[Any], *, placeholders: re.Pattern[str], roles: Mapping[str, str]) -> list[Message]:
    """The messages with their content as a list of text and images in order; what else they hold stays, null apart.

    Raises:
        BadSample: one has no role, none of `roles`, no content, or other content than text and images.
    """
    return [_in_parts(index, _openai(message), placeholders, roles) for index, message in enumerate(messages)]


def _openai(message: Any) -> Any:
    """Return a message of ShareGPT with the keys of OpenAI, any other as it is."""
    if not isinstance(message, dict) or message.get("role") is not None or message.get("from") is None:
        return message
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    return {**rest, "role": message["from"], "content": message.get("value")}


def _in_parts(index: int, message: Any, placeholders: re.Pattern[str], roles: Mapping[str, str]) -> Message:
    if not isinstance(message, dict) or not isinstance(role := message.get("role"), str):
        raise BadSample(f"has a message without a role, {short(message)}; give each one role and content")
    if role not in roles:
        raise BadSample(
            f"role {short(role)} of message {index} is not known; use {', '.join(ROLES[:-1])} or {ROLES[-1]}, one "
            "that the chat template names, or say in data.roles which it is"
        )
    role, content = roles[role], message.get("content")
    if content is None and not (role == "assistant" and message.get("tool_calls")):
        raise BadSample(f"message {index} has no content; give it text, or a list of parts")
    known = {key: value for key, value in message.items() if value is not None}
    return {**known, "role": role, "content": [] if content is None else _parts(content, placeholders)}


def _parts(content: Any, placeholders: re.Pattern[str]) -> list[Message]:
    """Text and images in order, from a string with image tokens or from parts already."""
    if isinstance(content, list):
        return [_part(part) for part in content]
    if not isinstance(content, str):
        raise BadSample(f"has {short(content)} as content of a message; make it text, or a list of parts")
    first, *others = placeholders.split(content)
    parts = [{"type": "text", "text": first}]
    for other in others:
        parts += [{"type": "image"}, {"type": "text", "text": other}]
    return [part for part in parts if part["type"] == "image" or part["text"].strip()]


def _part(part: Any) -> Message:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in IMAGE_PARTS:
        return {"type": "image"}
    if kind in TEXT_PARTS and isinstance(text := part.get("text"), str):
        return {"type": "text", "text": text}
    raise BadSample(f"has {short(part)} as part of a message, which is neither text nor an image; make it one of them")


def _line(text: str) -> str:
    """Return text on one line, without its middle if it is long."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= 2 * MAX_SHOWN else f"{line[:MAX_SHOWN]} ... {line[-MAX_SHOWN:]}"


MAX_SHOWN = 150
"""Characters from either end of a long text that a message shows."""

_NO_ANSWER = "has no answer to learn; give it a message of the role 'assistant' that is not empty"


class Chat:
    """Turns messages into tokens with a `transformers` processor."""

    def __init__(
        self, processor: Any, *, shape: ModelShape, seq_length: int, roles: Mapping[str, str], where: str
    ) -> None:
        """Tokens for models of `shape`, at most `seq_length` of them; `roles` are those of the template by other names.

        Raises:
            ScenarioError: the processor has no chat template, or its tokens are not the model's; `where` names it.
        """
        self._processor, self._tokenizer = processor, processor.tokenizer
        self._seq_length = seq_length
        self._image_token: str = processor.image_token
        self._image_token_id = shape.special_tokens["vision"]
        self._tokens_per_image = shape.encoders["vision"].num_tokens
        if not processor.chat_template:
            raise ScenarioError(
                f"{where}: the processor has no chat template; save one next to it, chat_template.jinja"
            )
        self.writes_date: bool = "strftime_now(" in str(processor.chat_template)
        processor.chat_template = dated(processor.chat_template, where=where)
        known = roles_of(processor.chat_template, renamed={})
        if unknown := next((name for name in roles.values() if name not in known), None):
            raise ScenarioError(f"data.roles: {unknown!r} is no role of the chat template; {choices(unknown, known)}")
        self._roles = roles_of(processor.chat_template, renamed=roles)
        self._placeholders = re.compile("|".join(map(re.escape, {PLACEHOLDER, self._image_token})))
        tokens = Tokens(
            image_token=self._image_token,
            image_token_id=self._tokenizer.convert_tokens_to_ids(self._image_token),
            largest=max(self._tokenizer.get_vocab().values()),
        )
        tokens.check(shape, where=where)

    def text(self, messages: list[Message], *, num_images: int, tools: list[Any] | None = None) -> Text:
        """The tokens of a conversation, image tokens repeated for every position that an image takes.

        Raises:
            BadSample: it is no conversation, has no answer, names another number of images than it has, is refused by
                the chat template, or does not fit.
        """
        conversation = self._with_images(messages, num_images)
        if not conversation:
            raise BadSample(_NO_ANSWER)
        rendered = self._render(conversation, tools)
        if tools and rendered == self._render(conversation, None):
            raise BadSample(
                "has tools, which the chat template does not write; use a template that does, or remove the column"
            )
        answers = self._answers(conversation, tools, rendered)
        encoded = self._tokenizer(
            rendered,
            return_offsets_mapping=True,
            # As `transformers` does it: a template that writes the first token itself gets no second one.
            add_special_tokens=not (self._tokenizer.bos_token and rendered.startswith(self._tokenizer.bos_token)),
        )
        is_answer = [
            any(start < last and first < end for first, last in answers) for start, end in encoded["offset_mapping"]
        ]
        in_text = 0 if self._image_token == PLACEHOLDER else rendered.count(PLACEHOLDER)
        if (found := encoded["input_ids"].count(self._image_token_id) + in_text) != num_images:
            raise BadSample(
                f"is rendered with {found} of {PLACEHOLDER} and has {counted(num_images, 'image')}; place each "
                "as a part of the type 'image', not within a part of text"
            )
        text = self._expanded(encoded["input_ids"], is_answer)
        if (length := len(text.tokens)) > self._seq_length:
            raise BadSample(
                f"has {length} tokens, {num_images * self._tokens_per_image} of them for its images, and seq_length is "
                f"{self._seq_length}; use at least {length}, or shorten it"
            )
        if not text.is_answer.any():
            raise BadSample(_NO_ANSWER)
        return text

    def ends_answers(self, messages: list[Message], *, num_images: int, tools: list[Any] | None = None) -> bool:
        """True if the chat template writes something after the last answer, which the loss scores with it."""
        conversation = self._with_images(messages, num_images)
        rendered = self._render(conversation, tools)
        first, last = self._answers(conversation, tools, rendered)[-1]
        answers = (message["content"] for message in conversation if message["role"] == "assistant")
        said = [part["text"] for content in answers for part in content if part["type"] == "text"]
        return not said or not rendered[first:last].endswith(said[-1].strip())

    def shown(self, text: Text) -> str:
        """Return tokens as text for a message, with scored ones in brackets and image tokens by their number."""
        marked = zip(text.tokens.tolist(), text.is_answer.tolist(), strict=True)
        pieces = []
        for (is_scored, is_image), group in groupby(marked, key=lambda one: (one[1], one[0] == self._image_token_id)):
            tokens = [token for token, _ in group]
            piece = f"{self._image_token} x {len(tokens)}" if is_image else _line(self._tokenizer.decode(tokens))
            pieces.append(f"[{piece}]" if is_scored else piece)
        return " ".join(pieces)

    def _with_images(self, messages: list[Message], num_images: int) -> list[Message]:
        """The messages in parts; images that no message places stand before the first of the user."""
        conversation = in_parts(messages, placeholders=self._placeholders, roles=self._roles)
        placed = sum(part["type"] == "image" for message in conversation for part in message["content"])
        if not placed and num_images:
            first = next((message for message in conversation if message["role"] == "user"), None)
            if first is None:
                raise BadSample("has images and no message of the role 'user' to hold them")
            first["content"] = [{"type": "image"}] * num_images + first["content"]
        elif placed != num_images:
            raise BadSample(
                f"places {counted(placed, 'image')} in its messages and has {num_images}; make both the same"
            )
        return conversation

    def _render(self, conversation: list[Message], tools: list[Any] | None, *, asks: bool = False) -> str:
        try:
            # As a batch of one: by itself, a conversation of no message is taken for none.
            (rendered,) = self._processor.apply_chat_template(
                [conversation], tools=tools, tokenize=False, add_generation_prompt=asks
            )
        except Exception as error:  # a template is a user's program, and raises what it likes
            words = " ".join(str(error).split()) or type(error).__name__
            if not conversation:
                raise BadSample(
                    f"begins with an answer, and the chat template needs a message in front of it: {words}; give it "
                    "one of the role 'user'"
                ) from None
            raise BadSample(
                f"is refused by the chat template: {words}; mend the conversation, or the template"
            ) from None
        return str(rendered)

    def _answers(self, conversation: list[Message], tools: list[Any] | None, rendered: str) -> list[tuple[int, int]]:
        """First character and the one behind the last of each answer in the rendered conversation."""
        spans = []
        for index, message in enumerate(conversation):
            calls = message.get("tool_calls")
            if message["role"] != "assistant" or not (message["content"] or calls):
                continue
            before = self._render(conversation[:index], tools, asks=True)
            behind = self._render(conversation[: index + 1], tools)
            if not (behind.startswith(before) and rendered.startswith(behind.rstrip())):
                raise BadSample(
                    "is rendered by the chat template so that its answers are not separable: a further turn "
                    "changes what was there; use a template that only appends, and that writes what asks for an answer "
                    "(add_generation_prompt)"
                )
            if calls and behind == self._render([*conversation[:index], {**message, "tool_calls": []}], tools):
                raise BadSample(
                    f"message {index} has tool_calls, which the chat template does not write; use one that does, or "
                    "write them as content"
                )
            # A template may end a conversation with space that it does not put between turns.
            spans.append((len(before), len(behind.rstrip())))
        return spans

    def _expanded(self, tokens: list[int], is_answer: list[bool]) -> Text:
        ids, answer = torch.tensor(tokens, dtype=torch.int64), torch.tensor(is_answer, dtype=torch.bool)
        is_image = ids == self._image_token_id
        times = torch.where(is_image, self._tokens_per_image, 1)
        return Text(tokens=ids.repeat_interleave(times), is_answer=(answer & ~is_image).repeat_interleave(times))
