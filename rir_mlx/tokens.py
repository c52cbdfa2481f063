"""Prompts and completions as token ids with exact boundaries, and ids as batches.

The chat template is rendered once, with marks where the user's text goes, and split at the marks. What the template
and we wrote is tokenised with control tokens; what the user gave is tokenised without; the ids are concatenated. So
the prompt's length is exact, training and inference see the same ids, and no text can smuggle in a control token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.backends.base import Batch, Tokens, pad_right
from rir_mlx.errors import ModelError, UserError
from rir_mlx.prompts import Piece, Prompt

_BUCKET_BATCHES = 50
_SHORTEST_PREFIX = 16
"""Below so many shared tokens, running them apart costs more than it saves."""


def _mark(index: int) -> str:
    return f"\ue000{index}\ue001"


@dataclass(frozen=True)
class Encoded:
    """A prompt as ids: `head` is shared by the task's rows, `row` is its own, whose text lost `trimmed` tokens."""

    head: Tokens
    row: Tokens
    trimmed: int


class Codec:
    """A model's tokenizer and chat template. `date` is what the template prints as today's."""

    def __init__(self, folder: Path, date: str) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder} has no tokenizer that can be loaded: {error}") from error
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(f"{folder} has no tokenizer.json.", mend="Name a model with a fast tokenizer.")
        self.date = date
        self.terminator = self._find_terminator()
        self.stops = tuple(sorted({self.terminator, *_eos_ids(folder), *_as_ids(self.tokenizer.eos_token_id)}))
        self._rendered: dict[tuple[tuple[str | None, ...], str], list[Tokens]] = {}
        self._around = lru_cache(maxsize=4096)(self._encode_around)
        self._control = frozenset({*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder})

    def given(self, text: str) -> Tokens:
        """Ids of text that a user gave: `<|eot_id|>` in it is spelt out, never a control token."""
        return tuple(self._given_many([text])[0])

    def _given_many(self, texts: list[str]) -> list[list[int]]:
        plain = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
        ids: list[list[int]] = self.tokenizer(texts, **plain)["input_ids"] if texts else []
        return ids

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many ids each of the texts that a user gave takes."""
        return [len(ids) for ids in self._given_many(list(texts))]

    def control_words(self) -> list[str]:
        """How the control tokens are spelt."""
        return sorted(token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special)

    def constant(self, text: str) -> Tokens:
        """Ids of text that we or the template wrote, control tokens included."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.backend_tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text

    def has_control(self, tokens: Iterable[int]) -> bool:
        return not self._control.isdisjoint(tokens)

    def encode(self, prompt: Prompt, max_tokens: int) -> Encoded:
        """The prompt in at most `max_tokens` ids; the end of its text is cut where it is longer.

        Raises UserError where the rest of the prompt alone is longer than that."""
        return self.encode_many([prompt], max_tokens)[0]

    def encode_many(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Encoded]:
        """`encode` for each of the prompts, several times as fast."""
        encoded = []
        for prompt, ids in zip(prompts, self._given_many([prompt.text for prompt in prompts]), strict=True):
            before, after = self._around(prompt.head, prompt.tail, prompt.answer_start)
            room = max_tokens - len(before) - len(after)
            if room < 1:
                raise UserError(
                    f"The prompt without its text takes {len(before) + len(after)} tokens; {max_tokens} are left for "
                    "it.",
                    mend="Raise max_seq_length, or shorten the instruction and the label descriptions.",
                )
            encoded.append(Encoded(before, (*ids[:room], *after), max(0, len(ids) - room)))
        return encoded

    def _encode_around(
        self, head: tuple[Piece, ...], tail: tuple[Piece, ...], answer_start: str
    ) -> tuple[Tokens, Tokens]:
        """Ids of what stands before a prompt's text, and after it."""
        pieces = (*head, Piece("", given=True), *tail)
        constants = self._constants(tuple(None if p.given else p.text for p in pieces), answer_start)
        slots = [self.given(piece.text) for piece in pieces if piece.given]
        slot = sum(piece.given for piece in head)
        return (
            _interleave(constants[: slot + 1], slots[:slot]),
            _interleave(constants[slot + 1 :], slots[slot + 1 :]),
        )

    def _constants(self, texts: tuple[str | None, ...], answer_start: str) -> list[Tokens]:
        """Ids of what stands around the given pieces (None in `texts`) of a message, in the rendered template."""
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
        """A template that leaves the first token to the tokenizer gets it once, never twice."""
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
    return tuple(int(one) for one in value) if isinstance(value, list) else (int(value),)


def _eos_ids(folder: Path) -> set[int]:
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            found.update(_as_ids(json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")))
    return found


@dataclass(frozen=True, slots=True)
class Example:
    """A row to learn: the prompt after the shared head, then what is learned, the reasoning first or the answer. What
    ends `answer` belongs to it. `weight` is that of its answer beside other rows'."""

    prompt: Tokens
    reasoning: Tokens
    answer: Tokens
    answer_first: bool = False
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.reasoning) + len(self.answer)

    @property
    def learned(self) -> Tokens:
        return self.answer + self.reasoning if self.answer_first else self.reasoning + self.answer


@dataclass(frozen=True)
class Examples:
    """The encoded rows of one task. `trimmed` texts were cut; `dropped` rows have too long a completion. `head` is
    empty where no row is left. `origins` says which of the given rows each one was. `second` is another task on the
    same rows, of which a step takes both."""

    head: Tokens
    rows: tuple[Example, ...]
    trimmed: int = 0
    dropped: int = 0
    origins: tuple[int, ...] = ()
    second: Examples | None = None

    def tokens(self) -> int:
        """Tokens of one pass when every row runs alone."""
        return sum(len(row) for row in self.rows) + len(self.head) * len(self.rows)

    def lengths(self) -> list[int]:
        """Of each row, without the head; of a row of two tasks the longer one."""
        own = [len(row) for row in self.rows]
        return own if self.second is None else list(map(max, own, self.second.lengths()))

    def at(self, places: Sequence[int]) -> Examples:
        """The rows at these places, in their order."""
        rows, origins = tuple(self.rows[place] for place in places), tuple(self.origins[place] for place in places)
        return replace(self, rows=rows, origins=origins, second=self.second and self.second.at(places))


def encode_examples(
    codec: Codec, rows: Iterable[tuple[Prompt, Tokens, Tokens]], max_seq_length: int, *, answer_first: bool = False
) -> Examples:
    """Rows of (prompt, reasoning ids, answer ids) as examples of at most `max_seq_length` tokens."""
    examples: list[Example] = []
    origins: list[int] = []
    head: Tokens = ()
    trimmed = dropped = 0
    too_long: UserError | None = None
    for index, (prompt, reasoning, answer) in enumerate(rows):
        try:
            encoded = codec.encode(prompt, max_seq_length - len(reasoning) - len(answer))
        except UserError as error:
            too_long = too_long or error
            dropped += 1
            continue
        head = encoded.head
        trimmed += encoded.trimmed > 0
        examples.append(Example(encoded.row, reasoning, answer, answer_first))
        origins.append(index)
    if too_long is not None and not examples:
        raise too_long
    return Examples(head, tuple(examples), trimmed, dropped, tuple(origins))


def joined(first: Examples, second: Examples) -> Examples:
    """The examples of two tasks as one: what their heads do not share becomes part of the rows. `origins` of the second
    follow those of the first."""
    if not first.rows or not second.rows:
        return first if first.rows else second
    pairs = zip(first.head, second.head, strict=False)
    shared = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first.head), len(second.head)))
    rows = [
        replace(row, prompt=examples.head[shared:] + row.prompt)
        for examples in (first, second)
        for row in examples.rows
    ]
    given = len(first.rows) + first.dropped
    return Examples(
        first.head[:shared],
        tuple(rows),
        first.trimmed + second.trimmed,
        first.dropped + second.dropped,
        (*first.origins, *(given + origin for origin in second.origins)),
    )


@dataclass(frozen=True)
class BatchSize:
    """How many rows make a batch: `rows` of them, or with `tokens` as many as fit when padded to the longest."""

    rows: int
    tokens: int | None = None

    def cut(self, order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """Consecutive batches of row indices that are sorted by length. A row longer than `tokens` stands alone."""
        if self.tokens is None:
            return [list(order[start : start + self.rows]) for start in range(0, len(order), self.rows)]
        batches: list[list[int]] = []
        for index in order:
            if not batches or (len(batches[-1]) + 1) * lengths[index] > self.tokens:
                batches.append([])
            batches[-1].append(index)
        return batches

    def longest(self, lengths: Sequence[int]) -> list[int]:
        """Indices of the longest rows, as many as make a batch."""
        count = self.rows if self.tokens is None else max(1, self.tokens // max(lengths))
        return sorted(range(len(lengths)), key=lambda index: lengths[index])[-count:]

    def mean_rows(self, lengths: Sequence[int]) -> int:
        return self.rows if self.tokens is None else max(1, self.tokens * len(lengths) // max(1, sum(lengths)))


def batch_order(lengths: Sequence[int], size: BatchSize, seed: int, epoch: int) -> list[list[int]]:
    """One epoch's batches of row indices: rows of like length together, each row once, none dropped.

    The order is drawn from the seed and the epoch: rows are shuffled, sorted by length within stretches of some
    50 batches, cut into batches, and the batches shuffled.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(lengths)).tolist()
    stretch = size.mean_rows(lengths) * _BUCKET_BATCHES
    batches = []
    for start in range(0, len(shuffled), stretch):
        batches += size.cut(sorted(shuffled[start : start + stretch], key=lambda index: lengths[index]), lengths)
    return [batches[index] for index in rng.permutation(len(batches))]


def whole_batches(examples: Examples, size: BatchSize) -> list[list[int]]:
    """All rows once in batches of like length, for measuring."""
    lengths = examples.lengths()
    return size.cut(sorted(range(len(lengths)), key=lambda index: lengths[index]), lengths)


def share_of(groups: Sequence[Sequence[int]], rank: int, ranks: int) -> list[Sequence[int]]:
    """What one of several ranks runs of a step's batches: whole ones where they can be dealt out evenly, else its
    part of each. Together the ranks have each row once."""
    if len(groups) % ranks == 0:
        return list(groups[rank::ranks])
    return [part for group in groups if (part := group[rank::ranks])]


def halved(groups: Sequence[Sequence[int]], times: int) -> list[Sequence[int]]:
    """The same rows in batches of half the size, `times` times over."""
    for _ in range(times):
        groups = [part for group in groups for part in _halves(group)]
    return list(groups)


def _halves(group: Sequence[int]) -> list[Sequence[int]]:
    middle = (len(group) + 1) // 2
    return [part for part in (group[:middle], group[middle:]) if part]


def step_batches(
    examples: Examples,
    groups: Sequence[Sequence[int]],
    *,
    mine: Sequence[Sequence[int]] | None = None,
    answer_weight: float = 1.0,
    reasoning_weight: float = 1.0,
    shared_prefix: bool = True,
) -> list[Batch]:
    """The batches of one optimizer step, weighted so that their summed loss is
    `answer_weight` · mean CE(answer tokens) + `reasoning_weight` · mean CE(reasoning tokens), over all rows of `groups`
    together; the first mean is weighted by the rows' own weights.

    `mine` are the batches to make, where they are not `groups` themselves but a rank's share, or smaller ones: the
    weights stay those of the whole step. A second task's batches of the same rows follow.
    """
    tasks = [task for task in (examples, examples.second) if task is not None]
    rows = [task.rows[index] for task in tasks for group in groups for index in group]
    answers = sum(row.weight * len(row.answer) for row in rows) or 1.0
    reasonings = sum(len(row.reasoning) for row in rows) or 1
    each = (answer_weight / answers, reasoning_weight / reasonings)
    return [
        _batch(task.head, chosen, each, shared_prefix)
        for task in tasks
        for group in (groups if mine is None else mine)
        if (chosen := [task.rows[index] for index in group if task.rows[index].learned])
    ]


def _batch(head: Tokens, rows: Sequence[Example], each: tuple[float, float], shared_prefix: bool) -> Batch:
    shared = shared_prefix and len(rows) > 1 and len(head) >= _SHORTEST_PREFIX
    own = () if shared else head
    tokens, lengths = pad_right([(*own, *row.prompt, *row.learned) for row in rows])
    weights = np.zeros(tokens.shape, dtype=np.float32)
    for index, row in enumerate(rows):
        place = len(own) + len(row.prompt)
        parts = [(len(row.reasoning), each[1]), (len(row.answer), each[0] * row.weight)]
        for length, weight in reversed(parts) if row.answer_first else parts:
            weights[index, place : place + length] = weight
            place += length
    return Batch(head if shared else (), tokens, lengths, weights)
