"""What is classified: a job, the rows and labels as token ids, and the answers."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks.generate import LENGTHS
from benchmarks.train.rows import INSTRUCTION, LABELS
from rir_mlx.backends.base import Request, Tokens
from rir_mlx.data.loading import load_labelled
from rir_mlx.prompting.arms import label_tokens
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import DELIMITER, answer_format, classifier_prompt
from rir_mlx.recipe.loading import load_recipe

DATE = "26 Jul 2024"
TASKS = {"label": "qa", "reasoning": "qra"}


@dataclass(frozen=True)
class Job:
    """One peer on one task, once: `rows` of the first `total` texts."""

    peer: str
    task: str
    backend: str
    folder: str
    dtype: str
    batch: int
    rows: int
    total: int
    data: str | None


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

    def requests(self, after: int) -> list[Request]:
        """Sorted by length; what is written is a reasoning and `after` more tokens."""
        pairs = enumerate(zip(self.rows, self.lengths, strict=True))
        made = [Request(key, row, max_tokens=length + after) for key, (row, length) in pairs]
        return sorted(made, key=lambda request: len(request.tokens))

    def reasoned(self, written: Iterator[tuple[int, Tokens]]) -> list[Tokens]:
        """The prompts with their reasonings and the delimiter."""
        texts = dict(written)
        pairs = enumerate(zip(self.rows, self.lengths, strict=True))
        return [row + texts[key][:length] + self.delimiter for key, (row, length) in pairs]


@dataclass(frozen=True)
class Answers:
    """Of each row the prompt that was scored, the probabilities of the labels, or the label that was read."""

    prompts: Sequence[Tokens] = ()
    probabilities: Sequence[Sequence[float]] = ()
    labels: Sequence[int | None] = ()


def make_given(codec: Codec, job: Job) -> Given:
    encoded = [
        codec.encode(classifier_prompt(text, LABELS, INSTRUCTION, answer_format(TASKS[job.task])), 512)
        for text, _ in read_rows(job.data, job.total)
    ]
    lengths = np.random.default_rng(0).integers(LENGTHS.start, LENGTHS.stop, job.total).tolist()
    given = Given(
        codec,
        encoded[0].prefix,
        [text.row for text in encoded],
        lengths if job.task == "reasoning" else [0] * job.total,
        [label_tokens(codec, label) for label in LABELS],
        codec.constant(DELIMITER) if job.task == "reasoning" else (),
    )
    return given.select(np.linspace(0, job.total - 1, job.rows).astype(int).tolist())


def read_rows(data: str | None, count: int | None = None) -> list[tuple[str, str]]:
    """Texts and labels of a CSV file, or of the embedded data, whose texts are joined in pairs to be as long."""
    if data:
        with Path(data).open(encoding="utf-8", newline="") as file:
            return [(row["text"], row["label"]) for row in csv.DictReader(file)][:count]
    rows = load_labelled(load_recipe("demo").data, seed=0).train
    joined = (f"{row.text}. {other.text}" for row, other in zip(rows, reversed(rows), strict=True))
    return list(zip(joined, cycle(LABELS), strict=False))[:count]
