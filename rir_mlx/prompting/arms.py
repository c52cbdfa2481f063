"""The classifier's task, and what each arm learns of a row, token by token. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rir_mlx.backends.base import Tokens
from rir_mlx.errors import UserError
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.examples import TrainingExamples, encode_examples
from rir_mlx.prompting.prompts import (
    DELIMITER,
    REASONING,
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
    """A label that a reasoning follows. What ends it is the first token of what stands between the two."""
    return (*codec.given(label_text(label)), codec.constant(REASONING)[0])


def following_tokens(codec: Codec, reasoning: str) -> Tokens:
    """A reasoning as it is learned after a label, from the second token of what stands between the two."""
    return (*codec.constant(REASONING)[1:], *codec.given(f" {reasoning}"), codec.terminator)


def check_room(codec: Codec, task: ClassificationTask, arm: Arm) -> None:
    """Whether a text has room beside all that the arm reads and writes: to be asked before a training.

    Raises UserError where it has none."""
    asked: set[AnswerFormat] = {answer_format(arm), "reasoning"} if arm == "multitask" else {answer_format(arm)}
    between = codec.constant(DELIMITER if reasons_first(arm) else REASONING)
    reasoning = 0 if arm == "qa" else task.max_reasoning_tokens + len(between)
    room = task.max_seq_length - reasoning - max(len(label_tokens(codec, label)) for label in task.labels)
    try:
        codec.encode_many([classifier_prompt("", task.labels, task.instruction, one) for one in asked], room)
    except UserError as error:
        if arm == "qa":
            raise
        raise no_room(task) from error


def no_room(task: ClassificationTask) -> UserError:
    return UserError(
        f"max_seq_length {task.max_seq_length} leaves no room for a text beside "
        f"{task.max_reasoning_tokens} tokens of reasoning.",
        hint="Raise max_seq_length, or lower evaluate.max_reasoning_tokens.",
    )


def training_examples(
    codec: Codec, task: ClassificationTask, rows: Iterable[tuple[str, str, str | None]], arm: Arm
) -> TrainingExamples:
    """Rows of (text, label, reasoning) as the arm learns them. `qa` ignores the reasoning; an arm that reasons first
    leaves rows without one out, the others learn their label alone."""

    def encode(asked: AnswerFormat, pairs: Iterable[tuple[str, Tokens, Tokens]]) -> TrainingExamples:
        parts = (
            (classifier_prompt(text, task.labels, task.instruction, asked), reasoning, answer)
            for text, reasoning, answer in pairs
        )
        return encode_examples(codec, parts, task.max_seq_length, answer_first=asked == "label, reasoning")

    asked = answer_format(arm)
    match asked:
        case "reasoning, label":
            own = (row for row in rows if row[2] is not None)
            return encode(asked, ((t, reasoning_tokens(codec, r or ""), label_tokens(codec, a)) for t, a, r in own))
        case "label, reasoning":
            return encode(
                asked,
                ((t, following_tokens(codec, r) if r else (), first_label_tokens(codec, a)) for t, a, r in rows),
            )
        case _:
            rows = list(rows)
            labels = encode("label", ((text, (), label_tokens(codec, label)) for text, label, _ in rows))
            if arm != "multitask":
                return labels
            reasons = ((*codec.given(r), codec.terminator) if r else () for _, _, r in rows)
            second = encode("reasoning", ((row[0], tokens, ()) for row, tokens in zip(rows, reasons, strict=True)))
            return _paired(labels, second)


def _paired(first: TrainingExamples, second: TrainingExamples) -> TrainingExamples:
    """Two tasks on the same rows. Where a row does not fit into one of them it is left out of both."""
    places = {origin: place for place, origin in enumerate(second.origins)}
    both = [(place, places[origin]) for place, origin in enumerate(first.origins) if origin in places]
    left = first.at([place for place, _ in both])
    dropped = len(first.rows) + first.dropped - len(both)
    return replace(left, dropped=dropped, second=second.at([place for _, place in both]))
