"""The rows that are trained on: texts of the `emotion` kind, their batches, and a row as one sequence."""

from __future__ import annotations

import statistics
from itertools import cycle, islice

import numpy as np

from rir_mlx.data.loading import load_labelled
from rir_mlx.data.rows import Row
from rir_mlx.prompting.arms import ClassificationTask, training_examples
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples
from rir_mlx.recipe.loading import load_recipe

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
