"""The classification task, and what each arm learns from a row, token by token. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from rir_mlx.backends.base import Tokens
from rir_mlx.data.rows import Row
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.examples import Lesson, TrainingExample, TrainingExamples, encode_examples
from rir_mlx.prompting.prompts import (
    DELIMITER,
    REASONING,
    Prompt,
    answer_format,
    classifier_prompt,
    label_text,
    reasons_first,
)
from rir_mlx.types import AnswerFormat, Arm


@dataclass(frozen=True)
class ClassificationTask:
    """A label set and how it is asked for. Lengths are in tokens."""

    labels: dict[str, str]
    instruction: str
    max_seq_length: int
    max_reasoning_tokens: int

    @property
    def names(self) -> list[str]:
        return list(self.labels)


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
    """A reasoning as it is learned after a label, from the second token of the text between the two."""
    return (*codec.constant(REASONING)[1:], *codec.given(f" {reasoning}"), codec.terminator)


def training_examples(
    codec: Codec,
    task: ClassificationTask,
    rows: Iterable[Row],
    arm: Arm,
    label_weights: Mapping[str, float] | None = None,
) -> TrainingExamples:
    """Rows as the arm learns them, each with the reasoning to learn. `label_weights` weigh the rows by their labels.

    `qa` ignores reasonings. Arms that reason first skip rows without one; the others learn such a row's label alone.
    A row of `multitask` that is too long for one of its two prompts is left out of both."""
    weights = label_weights or {}

    def lessons() -> Iterator[list[Lesson]]:
        for row in rows:
            if row.reasoning is not None or not reasons_first(arm):
                yield list(_lessons(codec, task, row, arm, weights.get(row.label, 1.0)))

    return encode_examples(codec, lessons(), task.max_seq_length)


def _lessons(codec: Codec, task: ClassificationTask, row: Row, arm: Arm, weight: float) -> Iterator[Lesson]:
    """The prompts of a row and what is learned behind each: two for `multitask`, one for every other arm."""

    def lesson(asked: AnswerFormat, reasoning: Tokens, answer: Tokens) -> Lesson:
        prompt: Prompt = classifier_prompt(row.text, task.labels, task.instruction, asked)
        answer_first = asked == "label, reasoning"
        return prompt, TrainingExample((), reasoning, answer, answer_first, weight, row.id, row.text)

    reasoning, asked = row.reasoning or "", answer_format(arm)
    match asked:
        case "reasoning, label":
            yield lesson(asked, reasoning_tokens(codec, reasoning), label_tokens(codec, row.label))
        case "label, reasoning":
            explanation = following_tokens(codec, reasoning) if reasoning else ()
            yield lesson(asked, explanation, first_label_tokens(codec, row.label))
        case _:
            yield lesson("label", (), label_tokens(codec, row.label))
            if arm == "multitask":
                yield lesson("reasoning", (*codec.given(reasoning), codec.terminator) if reasoning else (), ())
