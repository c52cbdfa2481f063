"""Encoded rows to learn from, and two tasks joined into one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from rir_mlx.backends.base import Tokens
from rir_mlx.errors import UserError
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import Prompt


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A row to learn: the prompt after the shared prefix, then what is learned, in this order: a `first` answer, a
    reasoning, an answer. Each may be empty, and includes what ends it. Of the reasoning, the last `kept` tokens are
    learned even where a curriculum drops it. `weight` is the weight of both answers relative
    to other rows'. Where a row's label is divided, it is one of several examples: `share` is what the answers and the
    reasoning count in it, `mean_share` what they count on average, so that a step's loss does not depend on which of
    them are in it. `id` and `text` are the row's own, and name it in messages."""

    prompt: Tokens
    reasoning: Tokens
    answer: Tokens
    first: Tokens = ()
    weight: float = 1.0
    kept: int = 0
    id: str = field(default="", compare=False, repr=False)
    text: str = field(default="", compare=False, repr=False)
    share: tuple[float, float] = (1.0, 1.0)
    mean_share: tuple[float, float] = (1.0, 1.0)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.learned)

    @property
    def learned(self) -> Tokens:
        return self.first + self.reasoning + self.answer

    def dropping(self, share: float) -> TrainingExample:
        """The row without that share of its reasoning, from the start."""
        count = round(share * max(0, len(self.reasoning) - self.kept))
        return replace(self, reasoning=self.reasoning[count:]) if count else self

    @property
    def answers(self) -> int:
        """Tokens of its answers."""
        return len(self.first) + len(self.answer)


Lesson = tuple[Prompt, TrainingExample]
"""A prompt, and what is learned behind it: an example whose `prompt` holds only what follows the encoded one."""


@dataclass(frozen=True)
class TrainingExamples:
    """The encoded rows of one task. `trimmed` texts were cut; `dropped` rows have too long a completion. `prefix` is
    empty where no row is left. `second` is another task on the same rows; a training step uses both."""

    prefix: Tokens
    rows: tuple[TrainingExample, ...]
    trimmed: int = 0
    dropped: int = 0
    second: TrainingExamples | None = None

    def tokens(self) -> int:
        """Tokens of one epoch without prefix sharing."""
        return sum(len(row) for row in self.rows) + len(self.prefix) * len(self.rows)

    def lengths(self) -> list[int]:
        """The length of each row without the prefix; with a second task, the longer of the two."""
        own = [len(row) for row in self.rows]
        return own if self.second is None else list(map(max, own, self.second.lengths()))


def encode_examples(codec: Codec, rows: Iterable[Sequence[Lesson]], max_seq_length: int) -> TrainingExamples:
    """Encode the lessons of each row, one or two, in at most `max_seq_length` tokens each. A row of which one lesson
    does not fit is dropped.

    Raises UserError if no row fits."""
    tasks: list[list[TrainingExample]] = []
    prefixes: list[Tokens] = []
    trimmed = [0, 0]
    dropped = 0
    too_long: UserError | None = None
    for lessons in rows:
        try:
            encoded = [codec.encode(prompt, max_seq_length - len(learned)) for prompt, learned in lessons]
        except UserError as error:
            too_long = too_long or error
            dropped += 1
            continue
        if not tasks:
            tasks = [[] for _ in lessons]
            prefixes = [prompt.prefix for prompt in encoded]
        for number, (prompt, (_, learned)) in enumerate(zip(encoded, lessons, strict=True)):
            tasks[number].append(replace(learned, prompt=prompt.row + learned.prompt))
            trimmed[number] += prompt.trimmed > 0
    if too_long is not None and not tasks:
        raise too_long
    examples: TrainingExamples | None = None
    for number, prefix in reversed(list(enumerate(prefixes))):
        examples = TrainingExamples(prefix, tuple(tasks[number]), trimmed[number], dropped, examples)
    return examples or TrainingExamples((), ())


def with_mean_shares(examples: TrainingExamples) -> TrainingExamples:
    """The examples with the mean share of their answers and of their reasonings, by tokens."""
    rows = [row for task in (examples, examples.second) if task is not None for row in task.rows]
    answers, reasonings = sum(row.answers for row in rows), sum(len(row.reasoning) for row in rows)
    mean = (
        sum(row.share[0] * row.answers for row in rows) / answers if answers else 1.0,
        sum(row.share[1] * len(row.reasoning) for row in rows) / reasonings if reasonings else 1.0,
    )

    def shared(task: TrainingExamples) -> TrainingExamples:
        return replace(task, rows=tuple(replace(row, mean_share=mean) for row in task.rows))

    return replace(shared(examples), second=None if examples.second is None else shared(examples.second))


def joined(first: TrainingExamples, second: TrainingExamples) -> TrainingExamples:
    """The rows of two tasks as one task. What their prefixes do not share becomes part of the rows."""
    if not first.rows or not second.rows:
        return first if first.rows else second
    pairs = zip(first.prefix, second.prefix, strict=False)
    shared = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first.prefix), len(second.prefix)))
    rows = [
        replace(row, prompt=examples.prefix[shared:] + row.prompt)
        for examples in (first, second)
        for row in examples.rows
    ]
    return TrainingExamples(
        first.prefix[:shared], tuple(rows), first.trimmed + second.trimmed, first.dropped + second.dropped
    )
