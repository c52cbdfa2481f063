"""The classification task, and what each arm learns from a row, token by token. Knows no model."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rir_mlx.backends.base import Tokens
from rir_mlx.data.rows import Row
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.examples import Lesson, TrainingExample, TrainingExamples, encode_examples, with_mean_shares
from rir_mlx.prompting.prompts import (
    DELIMITER,
    REASONING,
    Prompt,
    answer_format,
    answers_twice,
    classifier_prompt,
    label_text,
    reasons_first,
)
from rir_mlx.types import AnswerFormat, Arm


@dataclass(frozen=True)
class ClassificationTask:
    """A label set and how it is asked for. Lengths are in tokens. `combinations` are the answers that there are where a
    text may have several labels, each label alone among them; `no_label` is the one of texts that have none."""

    labels: dict[str, str]
    instruction: str
    max_seq_length: int
    max_reasoning_tokens: int
    combinations: tuple[str, ...] = ()
    no_label: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassificationTask:
        """From what `asdict` made of one, read back from JSON. Raises TypeError for other keys."""
        return cls(**{**values, "combinations": tuple(values.get("combinations", ()))})

    @property
    def names(self) -> list[str]:
        """The answers: what is learned, scored and given."""
        return list(self.combinations or self.labels)

    def prompt(self, text: str, asked: AnswerFormat) -> Prompt:
        """What a classifier is asked about a text."""
        return classifier_prompt(text, self.labels, self.instruction, asked, several=bool(self.combinations))


@dataclass(frozen=True)
class LearningOptions:
    """How rows are learned. `label_weights` weigh them by their labels. `wrong_first` is the share of the rows of
    `qarqa` whose reasoning follows a wrong first label, drawn by `seed`."""

    label_weights: Mapping[str, float] = field(default_factory=dict)
    wrong_first: float = 0.0
    seed: int = 0


_PLAIN = LearningOptions()


def label_tokens(codec: Codec, label: str) -> Tokens:
    """A label as it is learned and scored: with its leading space and the terminator."""
    return (*codec.given(label_text(label)), codec.terminator)


def reasoning_tokens(codec: Codec, reasoning: str) -> Tokens:
    """A reasoning as it is learned before a label: the text, then the delimiter."""
    return codec.given(reasoning) + codec.constant(DELIMITER)


def first_label_tokens(codec: Codec, label: str) -> Tokens:
    """A label as it is learned before a reasoning. It ends with the first token of the text between the two."""
    return (*codec.given(label_text(label)), codec.constant(REASONING)[0])


def following_tokens(codec: Codec, reasoning: str) -> Tokens:
    """A reasoning as it is learned after a label, from the second token of the text between the two, without its
    end."""
    return (*codec.constant(REASONING)[1:], *codec.given(f" {reasoning}"))


def training_examples(
    codec: Codec,
    task: ClassificationTask,
    rows: Iterable[Row],
    arm: Arm,
    options: LearningOptions = _PLAIN,
) -> TrainingExamples:
    """Rows as the arm learns them, each with the reasoning to learn.

    `qa` ignores reasonings. Arms whose only label waits for a reasoning skip rows without one; the others learn such a
    row's (first) label alone. A row of `multitask` that is too long for one of its two prompts is left out of both.

    A row whose label is a distribution is learned once for each of its labels, weighted by its share: cross-entropy
    against the distribution. A reasoning is about the main label. Where it comes before a label, every label is learned
    behind it, and it counts once; where it would follow, the other labels are learned without it."""

    def lessons() -> Iterator[list[Lesson]]:
        for row in rows:
            if row.reasoning is not None or not reasons_first(arm) or answers_twice(arm):
                for label, share in row.divided:
                    yield list(_lessons(codec, task, (row, label, share), arm, options))

    found = encode_examples(codec, lessons(), task.max_seq_length)
    return with_mean_shares(found) if any(example.share != (1.0, 1.0) for example in found.rows) else found


def examples_of(rows: Iterable[Row]) -> int:
    """How many examples rows become: one for each label of a row."""
    return sum(len(row.divided) for row in rows)


def _lessons(
    codec: Codec, task: ClassificationTask, divided: tuple[Row, str, float], arm: Arm, options: LearningOptions
) -> Iterator[Lesson]:
    """The prompts of a row and what is learned behind each: one, or for `multitask` and `qarqa` two. The row comes with
    one of its labels and that label's share."""
    row, name, share = divided
    weight, asked = options.label_weights.get(name, 1.0), answer_format(arm)
    reasoning = (row.reasoning or "") if name == row.label or reasons_first(arm) or arm == "curriculum" else ""
    label, first = label_tokens(codec, name), first_label_tokens(codec, name)
    explanation = following_tokens(codec, reasoning) if reasoning and asked.startswith("label, reasoning") else ()
    shares = (share, share if asked == "reasoning, label" else 1.0)

    def lesson(
        first: Tokens = (), reasoning: Tokens = (), answer: Tokens = (), *, given: Tokens = (), explains: bool = False
    ) -> Lesson:
        wanted: AnswerFormat = "reasoning" if explains else asked
        prompt = task.prompt(row.text, wanted)
        kept = len(codec.constant(DELIMITER)) if arm == "curriculum" else 0
        return prompt, TrainingExample(given, reasoning, answer, first, weight, kept, row.id, row.text, shares)

    match asked:
        case "reasoning, label":
            yield lesson((), reasoning_tokens(codec, reasoning), label)
        case "label, reasoning":
            yield lesson(first, (*explanation, codec.terminator) if explanation else ())
        case "label, reasoning, label":
            thought, answer = ((*explanation, *codec.constant(DELIMITER)), label) if explanation else ((), ())
            wrong = _wrong_first(task, row, options) if explanation else None
            if explanation and name != row.label:
                before = first_label_tokens(codec, row.label if wrong is None else wrong)
                yield lesson((), (), answer, given=(*before, *thought))
                yield lesson(first)
            elif wrong is None:
                yield lesson(first, thought, answer)
                yield lesson()
            else:
                yield lesson((), thought, answer, given=first_label_tokens(codec, wrong))
                yield lesson(first)
        case _:
            yield lesson((), (), label)
            if arm == "multitask":
                yield lesson((), (*codec.given(reasoning), codec.terminator) if reasoning else (), explains=True)


def _wrong_first(task: ClassificationTask, row: Row, options: LearningOptions) -> str | None:
    """The wrong first label that a row's reasoning follows in training; None if it is the right one. A model that only
    ever saw right ones would learn to repeat its first label, whatever the reasoning says."""
    draw = random.Random(f"{options.seed} {row.text}")
    if draw.random() >= options.wrong_first:
        return None
    own = {row.label, *(label for label, _ in row.shares)}
    wrong = [label for label in task.names if label not in own]
    return draw.choice(wrong) if wrong else None
