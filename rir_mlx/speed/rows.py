"""The rows that all programs get: texts of the `emotion` kind, to train on, to write reasonings for, to classify."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np

from rir_mlx.backends.base import Request, Tokens
from rir_mlx.data.loading import load_labelled
from rir_mlx.data.rows import Row
from rir_mlx.prompting.arms import ClassificationTask, label_tokens, training_examples
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples
from rir_mlx.prompting.prompts import DELIMITER, LabelQuestion, answer_format, classifier_prompt
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.types import Arm

DATE = "26 Jul 2024"
MOST_TOKENS = 512
"""Of a row in all: prefix, text and what is written after it."""
PREFIX_TOKENS, TEXT_TOKENS, REASONING_TOKENS = 120, range(15, 46), range(40, 81)
INSTRUCTION = "Which emotion does the writer of the text express?"
LABELS = {
    "sadness": "grief, loss, disappointment, hurt, loneliness or regret",
    "joy": "happiness, delight, pride, relief, hope or amusement",
    "love": "affection, tenderness, longing, devotion, care or warmth",
    "anger": "irritation, outrage, resentment, jealousy, spite or frustration",
    "fear": "worry, dread, nervousness, panic, doubt or unease",
    "surprise": "astonishment, wonder, shock, disbelief, curiosity or confusion",
}
REASONING = "The words tell of something that happened to the writer, and of how it left them. What counts is how they "
REASONING += "feel at the end, after the turn of the sentence, and that is the feeling that the label names. "


def make_rows(codec: Codec, arm: str, count: int) -> tuple[TrainingExamples, float]:
    """Rows of the `emotion` kind, and their texts' mean length: two embedded texts joined, the labels in turn."""
    texts = [row.text for row in load_labelled(load_recipe("demo").data, seed=0).train]
    joined = (f"{text}. {texts[i - shift]}" for shift in range(1, len(texts)) for i, text in enumerate(texts))
    fitting = list(islice((text for text in joined if len(codec.given(text)) in TEXT_TOKENS), count))
    long = codec.given(REASONING * 8)
    lengths = (REASONING_TOKENS[17 * i % len(REASONING_TOKENS)] for i in range(count))
    rows = [
        Row(text, label, codec.decode(long[:length]).strip())
        for text, label, length in zip(fitting, cycle(LABELS), lengths, strict=False)
    ]

    def encode(words: int, rows: list[Row]) -> TrainingExamples:
        labels = {name: " ".join(what.split()[:words]).rstrip(",") for name, what in LABELS.items()}
        return training_examples(
            codec, ClassificationTask(labels, INSTRUCTION, 512, 128), rows, "qra" if arm == "qra" else "qa"
        )

    words = min(range(9), key=lambda words: abs(len(encode(words, rows[:1]).prefix) - PREFIX_TOKENS))
    return encode(words, rows), statistics.mean(len(codec.given(text)) for text in fitting)


def make_groups(examples: TrainingExamples, batch: int) -> list[list[int]]:
    """Batches of similar length in a random order: the same batches and order that mlx-lm makes of these rows."""
    order = sorted(range(len(examples.rows)), key=lambda index: len(examples.rows[index]))
    groups = [order[start : start + batch] for start in range(0, len(order), batch)]
    return [groups[index] for index in np.random.RandomState(0).permutation(len(groups))]


def whole(examples: TrainingExamples, row: TrainingExample) -> tuple[list[int], int]:
    """A row with its prefix as one sequence, and where its completion starts."""
    prompt = [*examples.prefix, *row.prompt]
    return [*prompt, *row.reasoning, *row.answer], len(prompt)


Texts = Sequence[tuple[str, str]]
"""Texts and their labels."""


def joined_texts(count: int) -> Texts:
    """The embedded texts in joined pairs, to be as long as tweets, with the labels in turn; from the start again where
    there are fewer."""
    rows = load_labelled(load_recipe("demo").data, seed=0).train
    joined = [f"{row.text}. {other.text}" for row, other in zip(rows, reversed(rows), strict=True)]
    return list(zip(islice(cycle(joined), count), cycle(LABELS), strict=False))


def augmentation_requests(codec: Codec, texts: Texts, lengths: Sequence[int]) -> tuple[Tokens, list[Request]]:
    """R-Gen's prompts: the prefix of all rows, and the rows, each with how many tokens it writes."""
    question = LabelQuestion(list(LABELS), INSTRUCTION)
    prompts = [question.of_row(text, label) for text, label in texts]
    encoded = codec.encode_many(prompts, MOST_TOKENS - max(lengths))
    pairs = enumerate(zip(encoded, lengths, strict=True))
    return encoded[0].prefix, [Request(key, prompt.row, max_tokens=length) for key, (prompt, length) in pairs]


@dataclass(frozen=True)
class Given:
    """What is classified: prompts behind a prefix, the labels with their terminator, and how long the reasonings are
    (0 without one)."""

    codec: Codec
    prefix: Tokens
    rows: list[Tokens]
    lengths: list[int]
    options: list[Tokens]
    delimiter: Tokens

    def select(self, chosen: Sequence[int]) -> Given:
        return replace(self, rows=[self.rows[i] for i in chosen], lengths=[self.lengths[i] for i in chosen])

    def first(self, count: int) -> Given:
        """The first rows, the shortest first."""
        return self.select(sorted(range(count), key=lambda row: len(self.rows[row])))

    def requests(self, after: int) -> list[Request]:
        """Sorted by length; what is written is a reasoning and `after` more tokens."""
        pairs = enumerate(zip(self.rows, self.lengths, strict=True))
        made = [Request(key, row, max_tokens=length + after) for key, (row, length) in pairs]
        return sorted(made, key=lambda request: len(request.tokens))

    def reasoned(self, written: Iterable[tuple[int, Tokens]]) -> list[Tokens]:
        """The prompts with their reasonings and the delimiter."""
        texts = dict(written)
        pairs = enumerate(zip(self.rows, self.lengths, strict=True))
        return [row + texts[key][:length] + self.delimiter for key, (row, length) in pairs]


def classification_prompts(codec: Codec, texts: Texts, arm: Arm, lengths: Sequence[int]) -> Given:
    """The prompts of `qa`, or of `qra` with reasonings of those lengths."""
    prompts = [classifier_prompt(text, LABELS, INSTRUCTION, answer_format(arm)) for text, _ in texts]
    encoded = codec.encode_many(prompts, MOST_TOKENS)
    return Given(
        codec,
        encoded[0].prefix,
        [text.row for text in encoded],
        list(lengths) if arm == "qra" else [0] * len(texts),
        [label_tokens(codec, label) for label in LABELS],
        codec.constant(DELIMITER) if arm == "qra" else (),
    )
