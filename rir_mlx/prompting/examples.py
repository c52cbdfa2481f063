"""Encoded rows to learn from, and two tasks joined into one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rir_mlx.backends.base import Tokens
from rir_mlx.errors import UserError
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import Prompt


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A row to learn: the prompt after the shared prefix, then what is learned, the reasoning first or the answer. What
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
class TrainingExamples:
    """The encoded rows of one task. `trimmed` texts were cut; `dropped` rows have too long a completion. `prefix` is
    empty where no row is left. `origins` says which of the given rows each one was. `second` is another task on the
    same rows, of which a step takes both."""

    prefix: Tokens
    rows: tuple[TrainingExample, ...]
    trimmed: int = 0
    dropped: int = 0
    origins: tuple[int, ...] = ()
    second: TrainingExamples | None = None

    def tokens(self) -> int:
        """Tokens of one pass when every row runs alone."""
        return sum(len(row) for row in self.rows) + len(self.prefix) * len(self.rows)

    def lengths(self) -> list[int]:
        """Of each row, without the prefix; of a row of two tasks the longer one."""
        own = [len(row) for row in self.rows]
        return own if self.second is None else list(map(max, own, self.second.lengths()))

    def at(self, places: Sequence[int]) -> TrainingExamples:
        """The rows at these places, in their order."""
        rows, origins = tuple(self.rows[place] for place in places), tuple(self.origins[place] for place in places)
        return replace(self, rows=rows, origins=origins, second=self.second and self.second.at(places))


def encode_examples(
    codec: Codec, rows: Iterable[tuple[Prompt, Tokens, Tokens]], max_seq_length: int, *, answer_first: bool = False
) -> TrainingExamples:
    """Rows of (prompt, reasoning ids, answer ids) as examples of at most `max_seq_length` tokens."""
    examples: list[TrainingExample] = []
    origins: list[int] = []
    prefix: Tokens = ()
    trimmed = dropped = 0
    too_long: UserError | None = None
    for index, (prompt, reasoning, answer) in enumerate(rows):
        try:
            encoded = codec.encode(prompt, max_seq_length - len(reasoning) - len(answer))
        except UserError as error:
            too_long = too_long or error
            dropped += 1
            continue
        prefix = encoded.prefix
        trimmed += encoded.trimmed > 0
        examples.append(TrainingExample(encoded.row, reasoning, answer, answer_first))
        origins.append(index)
    if too_long is not None and not examples:
        raise too_long
    return TrainingExamples(prefix, tuple(examples), trimmed, dropped, tuple(origins))


def joined(first: TrainingExamples, second: TrainingExamples) -> TrainingExamples:
    """The examples of two tasks as one. What their prefixes do not share becomes part of the rows; `origins` of the
    second follow those of the first."""
    if not first.rows or not second.rows:
        return first if first.rows else second
    pairs = zip(first.prefix, second.prefix, strict=False)
    shared = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first.prefix), len(second.prefix)))
    rows = [
        replace(row, prompt=examples.prefix[shared:] + row.prompt)
        for examples in (first, second)
        for row in examples.rows
    ]
    given = len(first.rows) + first.dropped
    return TrainingExamples(
        first.prefix[:shared],
        tuple(rows),
        first.trimmed + second.trimmed,
        first.dropped + second.dropped,
        (*first.origins, *(given + origin for origin in second.origins)),
    )
