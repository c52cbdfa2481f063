"""What is classified: a job and its rows."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rir_mlx.data.loading import load_labelled
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.speed.job import LENGTHS
from rir_mlx.speed.rows import Given, classification_prompts, joined_texts
from rir_mlx.types import Arm

TASKS: dict[str, Arm] = {"label": "qa", "reasoning": "qra"}


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


def make_given(codec: Codec, job: Job) -> Given:
    lengths = np.random.default_rng(0).integers(LENGTHS.start, LENGTHS.stop, job.total).tolist()
    given = classification_prompts(codec, read_rows(job.data, job.total), TASKS[job.task], lengths)
    return given.select(np.linspace(0, job.total - 1, job.rows).astype(int).tolist())


def read_rows(data: str | None, count: int | None = None) -> list[tuple[str, str]]:
    """Texts and labels of a CSV file, or of the embedded data, whose texts are joined in pairs to be as long."""
    if data:
        with Path(data).open(encoding="utf-8", newline="") as file:
            return [(row["text"], row["label"]) for row in csv.DictReader(file)][:count]
    embedded = len(load_labelled(load_recipe("demo", ["data.max_samples=100"]).data, seed=0).train)
    return list(joined_texts(embedded if count is None else min(count, embedded)))
