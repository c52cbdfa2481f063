"""An engine that says what a test wants, and a job on a few rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rir_mlx.augmentation.engines.base import GeneratedReasoning, ReasoningRequest
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.job import (
    AugmentationJob,
    AugmentationSettings,
    AugmentedRow,
    ResultFlags,
)
from rir_mlx.backends.base import Sampling
from rir_mlx.data.rows import Row
from rir_mlx.progress import Silent
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import LabelQuestion
from rir_mlx.storage.journal import Journal
from rir_mlx.types import DEFAULT_FILTERS

LABELS = ["joy", "sadness"]
QUESTION = LabelQuestion(LABELS, "Which label fits?")
IDENTITY = {"model": "m", "revision": "1", "adapter": "a"}


class Writer:
    """Writes what `says` makes of an order, and remembers what it was asked. Raises after `dies_after` orders."""

    def __init__(self, says: Callable[[ReasoningRequest], str] | None = None, dies_after: int | None = None) -> None:
        self.says = says or (lambda order: f"It has to do with {order.text[::-1]}, plainly.")
        self.dies_after = dies_after
        self.asked: list[ReasoningRequest] = []
        self.sampled: list[Sampling] = []

    def identity(self) -> dict[str, str]:
        return IDENTITY

    def write(self, orders: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
        self.sampled.append(sampling)
        for order in orders:
            if len(self.asked) == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(order)
            text = self.says(order)
            yield GeneratedReasoning(order.key, text, len(text.split()), "stop")

    def close(self) -> None:
        return


def rows_of(*texts: str, label: str = "joy") -> list[Row]:
    return [Row(text, label) for text in texts]


ROWS = [*rows_of("one", "two \U0001f642", "three"), *rows_of("four", "five", label="sadness")]
JOB = AugmentationSettings("prompt", Sampling(max_tokens=32), seed=0)


def run(
    codec: Codec,
    rows: list[Row],
    journal: Path,
    engine: Writer,
    job: AugmentationSettings = JOB,
    identity: dict[str, str] | None = None,
    filters: Any = DEFAULT_FILTERS,
    stopped: Callable[[], bool] = lambda: False,
) -> list[AugmentedRow]:
    flags = ResultFlags(ReasoningFilters(codec, LABELS, QUESTION.instruction, filters))
    with Journal(journal, flags) as opened:
        augmentation = AugmentationJob(rows, job, identity or IDENTITY, flags, opened)
        augmentation.write(engine, Silent(), stopped)
        return list(augmentation.outcomes())


def kept(outcomes: list[AugmentedRow]) -> list[str | None]:
    return [outcome.kept["reasoning"] if outcome.kept else None for outcome in outcomes]


def results_in(journal: Path) -> list[dict[str, Any]]:
    """The results of a journal, in the order in which they were appended."""
    return [json.loads(line) for line in journal.open(encoding="utf-8")]
