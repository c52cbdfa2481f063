"""Prompts and completions as token ids with exact boundaries.

The chat template is rendered once, with marks where the user's text goes, and split at the marks. What the template
and we wrote is tokenised with control tokens, what the user gave without them, and the ids are concatenated. So the
prompt's length is exact, training and inference see the same ids, and no text can smuggle in a control token. Where a
tokenizer adds a space before a text (`added_space.py`), no part gets one that the whole has not. A codec may be used by
many threads at once.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rir_mlx.backends.base import Tokens
from rir_mlx.errors import ModelError, UserError
from rir_mlx.models.config import read_settings, token_ids
from rir_mlx.prompting.added_space import steps_without_space, with_steps
from rir_mlx.prompting.prompts import Piece, Prompt
from rir_mlx.prompting.templates import SETTINGS, default_template, frozen


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

        for name in ("config.json", SETTINGS):
            read_settings(folder / name)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # of a damaged file, tokenizers says so in an exception of no class of its own
            raise ModelError(
                f"{folder} has no tokenizer that can be loaded: {error}",
                hint="Fetch tokenizer.json again." if (folder / "tokenizer.json").is_file() else "",
            ) from error
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(f"{folder} has no tokenizer.json.", hint="Name a model with a fast tokenizer.")
        whole = self.tokenizer.backend_tokenizer
        self.steps_without_space = steps_without_space(whole)
        """The changed steps of a tokenizer that adds a space; None for one that does not."""
        self._joined: Any = with_steps(whole, self.steps_without_space) if self.steps_without_space else whole
        # Whether control tokens are recognised is a flag of the tokenizer object. Calling the one above with
        # `split_special_tokens` sets and resets it, and a thread that encodes in between reads control tokens where
        # there must be none. So user texts have a tokenizer of their own.
        self._plain: Any = copy.deepcopy(self._joined)
        self._plain.encode_special_tokens = True
        self.date = date
        self.template = default_template(self.tokenizer.chat_template)
        self._frozen = frozen(self.template, date) if self.template else None
        self._control = frozenset({*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder})
        self._rows = _embedding_rows(folder)
        self._check_rows(folder)
        self.terminator = self._find_terminator()
        ends = {self.terminator, *_eos_ids(folder), self.tokenizer.eos_token_id} - {None}
        self.stops: Tokens = tuple(sorted(ends))
        self._rendered: dict[tuple[tuple[str | None, ...], str], tuple[list[Tokens], bool]] = {}
        self._around = lru_cache(maxsize=4096)(self._encode_around)
        if self.steps_without_space:
            self._check_joints(folder)

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
        """Ids of text that we or the template wrote, control tokens included, and that other text precedes."""
        ids, start = self._before_control(text) if self.steps_without_space else ((), 0)
        return ids + self._opening(text[start:])

    def _before_control(self, text: str) -> tuple[Tokens, int]:
        """The ids before a text's first control token, and where that begins: from there on the tokenizer adds spaces
        as it does in the whole."""
        encoding = self._joined.encode(text, add_special_tokens=False)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        first = next((n for n, (token, _) in enumerate(spans) if token in self._control), len(encoding.ids))
        start = encoding.offsets[first][0] if first < len(encoding.ids) else len(text)
        return tuple(encoding.ids[:first]), start

    def _opening(self, text: str) -> Tokens:
        """Ids of text that we or the template wrote and that nothing precedes."""
        return tuple(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids) if text else ()

    def spelt(self, text: str) -> Tokens:
        """Ids of a text in which the spaces that a tokenizer adds are spelt out, control tokens included: of what
        `decode` returns."""
        return tuple(self._joined.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._joined.decode(list(tokens), skip_special_tokens=False)
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
                    hint="Raise max_seq_length, lower reasoning.examples, or shorten the instruction and the label "
                    "descriptions.",
                )
            encoded.append(EncodedPrompt(before, (*ids[:room], *after), max(0, len(ids) - room)))
        return encoded

    def _encode_around(
        self, prefix: tuple[Piece, ...], tail: tuple[Piece, ...], answer_start: str
    ) -> tuple[Tokens, Tokens]:
        """Ids of everything before a prompt's text, and of everything after it."""
        pieces = (*prefix, Piece("", given=True), *tail)
        slot = sum(piece.given for piece in prefix)
        constants, space = self._constants(tuple(None if p.given else p.text for p in pieces), answer_start)
        texts = [piece.text for piece in pieces if piece.given]
        if space and slot == 0:  # the row's own text is encoded apart
            constants, space = [constants[0] + self.given(" "), *constants[1:]], False
        slots = [self.given(f" {text}" if space and not index else text) for index, text in enumerate(texts)]
        return (
            _interleave(constants[: slot + 1], slots[:slot]),
            _interleave(constants[slot + 1 :], slots[slot + 1 :]),
        )

    def _constants(self, texts: tuple[str | None, ...], answer_start: str) -> tuple[list[Tokens], bool]:
        """Ids of the constant stretches around the user's pieces (None in `texts`) of a message, in the rendered
        template. The flag says that the first piece begins with a space, as it does where a tokenizer adds one."""
        key = (texts, answer_start)
        if key not in self._rendered:
            count = texts.count(None)
            marks = iter(range(count))
            content = "".join(_mark(next(marks)) if text is None else text for text in texts)
            rest, found_texts = self._chat(content) + answer_start, []
            for index in range(count):
                constant, found, rest = rest.partition(_mark(index))
                if not found:
                    raise ModelError("The model's chat template does not print the user's message as it is.")
                found_texts.append(constant)
            first, space = self._first_constant(found_texts[0])
            constants = [self._with_bos(first), *map(self.constant, (*found_texts[1:], rest))]
            self._check_constants(constants)
            self._rendered[key] = constants, space
        return self._rendered[key]

    def _first_constant(self, text: str) -> tuple[Tokens, bool]:
        """Ids of what stands before the user's first piece, and whether that piece is to begin with a space: one that
        the tokenizer adds there, or one that `text` ends with, which belongs to the word after it (`▁joy`)."""
        if not self.steps_without_space:
            return self._opening(text), False
        if text.endswith(" "):
            return self._opening(text[:-1]), True
        return self._opening(text), self._opening(f"{text}x") == self._opening(text) + self.given(" x")

    def _chat(self, content: str) -> str:
        if not self.template:
            return content + "\n\n"
        messages = [{"role": "user", "content": content}]
        return self._apply(messages, add_generation_prompt=True)

    def _apply(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                chat_template=self._frozen,
                date_string=self.date,
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
        if self.template:
            messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": _mark(0)}]
            after = self.constant(self._apply(messages, add_generation_prompt=False).rpartition(_mark(0))[2].lstrip())
            if after and after[0] in self._control:
                return after[0]
        if self.tokenizer.eos_token_id is None:
            raise ModelError("The tokenizer names no end-of-text token, so a model could never stop.")
        return int(self.tokenizer.eos_token_id)

    def _check_rows(self, folder: Path) -> None:
        """Raises ModelError where text could become a token that has no row in the embedding. A control token that
        nobody writes may lack one, as Gemma 3's token for images does."""
        tokenizer = self.tokenizer
        vocabulary, added = tokenizer.get_vocab(), tokenizer.added_tokens_decoder
        # transformers' classes name a token for unknown words that a tokenizer of bytes never needs.
        unknown = vocabulary.get(getattr(tokenizer.backend_tokenizer.model, "unk_token", None))
        used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, unknown}
        beyond = sorted((token, word) for word, token in vocabulary.items() if token >= self._rows)
        for token, word in beyond:
            if token in used or token not in added or not added[token].special:
                raise ModelError(
                    f"{folder}: the tokenizer has {len(vocabulary):,} tokens, the embedding {self._rows:,} rows: none "
                    f"for {word!r} ({token}).",
                    hint="Use the tokenizer that belongs to these weights, or resize the model with transformers' "
                    "resize_token_embeddings(len(tokenizer)) and save both.",
                )

    def _check_constants(self, constants: Sequence[Tokens]) -> None:
        for token in (token for ids in constants for token in ids if token >= self._rows):
            word = self.tokenizer.convert_ids_to_tokens(token)
            raise ModelError(f"The chat template writes {word!r}, for which the embedding has no row.")

    def _check_joints(self, folder: Path) -> None:
        """Raises ModelError where a prompt has other ids in parts than as a whole, so that other programs would ask the
        model otherwise than it was trained."""
        prefix, text = "Which label fits?\nLabels: joy, anger\n\nText:\n", "i feel happy today"
        encoded = self.encode(Prompt((Piece(prefix, given=True),), text), sys.maxsize)
        whole = self._with_bos(self._opening(self._chat(prefix + text)))
        if encoded.prefix + encoded.row != whole:
            raise ModelError(
                f"{folder}: the tokenizer gives a prompt other ids in parts than as a whole: "
                f"{self.decode(encoded.prefix + encoded.row)!r} for {self.decode(whole)!r}.",
                hint="Choose another model. Please report this, with the model's name.",
            )


def _embedding_rows(folder: Path) -> int:
    """How many tokens the model knows, as config.json says; no limit where that says nothing."""
    rows = read_settings(folder / "config.json").get("vocab_size")
    return rows if isinstance(rows, int) else sys.maxsize


def _interleave(constants: Sequence[Tokens], slots: Sequence[Tokens]) -> Tokens:
    """constants[0], slots[0], constants[1], …"""
    parts = [part for pair in zip(constants, (*slots, ()), strict=True) for part in pair]
    return tuple(token for part in parts for token in part)


def _eos_ids(folder: Path) -> set[int]:
    found: set[int] = set()
    for path in (folder / "config.json", folder / "generation_config.json"):
        found.update(token_ids(read_settings(path).get("eos_token_id"), path, "eos_token_id"))
    return found
