"""Prompts and completions as token ids with exact boundaries.

The chat template is rendered once, with marks where the user's text goes, and split at the marks. What the template
and we wrote is tokenised with control tokens, what the user gave without them, and the ids are concatenated. So the
prompt's length is exact, training and inference see the same ids, and no text can smuggle in a control token. A codec
may be used by many threads at once.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rir_mlx.backends.base import Tokens
from rir_mlx.errors import ModelError, UserError
from rir_mlx.prompting.prompts import Piece, Prompt


def _mark(index: int) -> str:
    return f"\ue000{index}\ue001"


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as ids: the `prefix` that all rows of a task share, then the `row`'s own, whose text lost `trimmed`
    tokens."""

    prefix: Tokens
    row: Tokens
    trimmed: int


class Codec:
    """A model's tokenizer and chat template. `date` is what the template prints as today's date.

    Raises ModelError if the folder has no fast tokenizer or the template cannot be rendered."""

    def __init__(self, folder: Path, date: str) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder} has no tokenizer that can be loaded: {error}") from error
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(f"{folder} has no tokenizer.json.", hint="Name a model with a fast tokenizer.")
        # Whether control tokens are recognised is a flag of the tokenizer object. Calling the one above with
        # `split_special_tokens` sets and resets it, and a thread that encodes in between reads control tokens where
        # there must be none. So user texts have a tokenizer of their own.
        self._plain: Any = copy.deepcopy(self.tokenizer.backend_tokenizer)
        self._plain.encode_special_tokens = True
        self.date = date
        self.terminator = self._find_terminator()
        self.stops = tuple(sorted({self.terminator, *_eos_ids(folder), *_as_ids(self.tokenizer.eos_token_id)}))
        self._rendered: dict[tuple[tuple[str | None, ...], str], list[Tokens]] = {}
        self._around = lru_cache(maxsize=4096)(self._encode_around)
        self._control = frozenset({*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder})

    def given(self, text: str) -> Tokens:
        """Ids of text that a user gave: `<|eot_id|>` in it is spelt out, never a control token."""
        return tuple(self._plain.encode(text, add_special_tokens=False).ids)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters of a user's text that each of its ids covers: start and end."""
        offsets: list[tuple[int, int]] = self._plain.encode(text, add_special_tokens=False).offsets
        return offsets

    def _given_many(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._plain.encode_batch(texts, add_special_tokens=False)]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """The number of ids of each text that a user gave."""
        return [len(ids) for ids in self._given_many(list(texts))]

    def control_words(self) -> list[str]:
        """The control tokens as text."""
        return sorted(token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special)

    def constant(self, text: str) -> Tokens:
        """Ids of text that we or the template wrote, control tokens included."""
        return tuple(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids) if text else ()

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.backend_tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text

    def has_control(self, tokens: Iterable[int]) -> bool:
        return not self._control.isdisjoint(tokens)

    def encode(self, prompt: Prompt, max_tokens: int) -> EncodedPrompt:
        """The prompt in at most `max_tokens` ids. The end of its text is cut if it is longer.

        Raises UserError if the prompt without its text is already too long."""
        return self.encode_many([prompt], max_tokens)[0]

    def encode_many(self, prompts: Sequence[Prompt], max_tokens: int) -> list[EncodedPrompt]:
        """Encode many prompts, several times as fast as one by one. Raises UserError like `encode`."""
        encoded = []
        for prompt, ids in zip(prompts, self._given_many([prompt.text for prompt in prompts]), strict=True):
            before, after = self._around(prompt.prefix, prompt.tail, prompt.answer_start)
            room = max_tokens - len(before) - len(after)
            if room < 1:
                raise UserError(
                    f"The prompt without its text takes {len(before) + len(after)} tokens; {max_tokens} are left for "
                    "it.",
                    hint="Raise max_seq_length, or shorten the instruction and the label descriptions.",
                )
            encoded.append(EncodedPrompt(before, (*ids[:room], *after), max(0, len(ids) - room)))
        return encoded

    def _encode_around(
        self, prefix: tuple[Piece, ...], tail: tuple[Piece, ...], answer_start: str
    ) -> tuple[Tokens, Tokens]:
        """Ids of everything before a prompt's text, and of everything after it."""
        pieces = (*prefix, Piece("", given=True), *tail)
        constants = self._constants(tuple(None if p.given else p.text for p in pieces), answer_start)
        slots = [self.given(piece.text) for piece in pieces if piece.given]
        slot = sum(piece.given for piece in prefix)
        return (
            _interleave(constants[: slot + 1], slots[:slot]),
            _interleave(constants[slot + 1 :], slots[slot + 1 :]),
        )

    def _constants(self, texts: tuple[str | None, ...], answer_start: str) -> list[Tokens]:
        """Ids of the constant stretches around the user's pieces (None in `texts`) of a message, in the rendered
        template."""
        key = (texts, answer_start)
        if key not in self._rendered:
            count = texts.count(None)
            marks = iter(range(count))
            content = "".join(_mark(next(marks)) if text is None else text for text in texts)
            rest, constants = self._chat(content) + answer_start, []
            for index in range(count):
                constant, found, rest = rest.partition(_mark(index))
                if not found:
                    raise ModelError("The model's chat template does not print the user's message as it is.")
                constants.append(self.constant(constant))
            self._rendered[key] = [self._with_bos(constants[0]), *constants[1:], self.constant(rest)]
        return self._rendered[key]

    def _chat(self, content: str) -> str:
        if not self.tokenizer.chat_template:
            return content + "\n\n"
        messages = [{"role": "user", "content": content}]
        return self._apply(messages, add_generation_prompt=True)

    def _apply(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, date_string=self.date
            )
        except Exception as error:  # a template is a program of the model's author and raises what it likes
            raise ModelError(f"The model's chat template does not render a user message: {error}") from error
        return text

    def _with_bos(self, ids: Tokens) -> Tokens:
        """Add the first token where the template leaves it to the tokenizer, so that it occurs exactly once."""
        bos = self.tokenizer.bos_token_id
        added = self.tokenizer("")["input_ids"]
        if bos is not None and bos in added and ids[:1] != (bos,):
            return (bos, *ids)
        return ids

    def _find_terminator(self) -> int:
        """The token that the template puts after an assistant's message, else the end-of-text token."""
        if self.tokenizer.chat_template:
            messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": _mark(0)}]
            after = self.constant(self._apply(messages, add_generation_prompt=False).rpartition(_mark(0))[2].lstrip())
            if after and after[0] in set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder):
                return after[0]
        if self.tokenizer.eos_token_id is None:
            raise ModelError("The tokenizer names no end-of-text token, so a model could never stop.")
        return int(self.tokenizer.eos_token_id)


def _interleave(constants: Sequence[Tokens], slots: Sequence[Tokens]) -> Tokens:
    """constants[0], slots[0], constants[1], …"""
    parts = [part for pair in zip(constants, (*slots, ()), strict=True) for part in pair]
    return tuple(token for part in parts for token in part)


def _as_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(token) for token in value) if isinstance(value, list) else (int(value),)


def _eos_ids(folder: Path) -> set[int]:
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            found.update(_as_ids(json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")))
    return found
