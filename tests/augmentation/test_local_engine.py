"""R-Gen in this process, and what augmentation keeps in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from job_runs import IDENTITY, JOB, LABELS, QUESTION

from rir_mlx.augmentation.engines.base import ReasoningRequest
from rir_mlx.augmentation.engines.local import LocalEngine
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.job import (
    AugmentationJob,
    ResultFlags,
)
from rir_mlx.augmentation.summary import AugmentationSummary
from rir_mlx.backends.base import Sampling
from rir_mlx.backends.fake import FakeBackend
from rir_mlx.data.rows import Row
from rir_mlx.progress import Silent
from rir_mlx.prompting.codec import Codec
from rir_mlx.storage.journal import Journal


def test_a_long_text_leaves_room_for_its_reasoning(codec: Codec) -> None:
    from rir_mlx.models.hub import resolve_model

    seen: list[int] = []
    model = FakeBackend().load(resolve_model("builtin:tiny-llama").folder)
    generate = model.generate

    def watched(requests: Any, sampling: Any, *, prefix: Any = (), on_token: Any = None) -> Any:
        for request in requests:
            seen.append(len(prefix) + len(request.tokens))
            yield from generate([request], sampling, prefix=prefix)

    model.generate = watched  # type: ignore[method-assign]
    engine = LocalEngine(model, codec, QUESTION, 220, {})
    orders = [
        ReasoningRequest("a", "happy because my friend came home " * 40, "joy", 1),
        ReasoningRequest("b", "short", "joy", 2),
    ]
    assert [result.key for result in engine.write(orders, Sampling(max_tokens=50))] == ["a", "b"]
    assert seen[0] == 170
    assert seen[1] < 170


def test_the_local_engine_takes_no_more_than_a_batch_ahead(codec: Codec) -> None:
    """Whoever stops giving orders waits for all that were taken."""
    from rir_mlx.models.hub import resolve_model

    taken: list[int] = []

    def orders() -> Iterator[ReasoningRequest]:
        for number in range(10_000):
            taken.append(number)
            yield ReasoningRequest(f"{number:x}", f"text {number}", "joy", number)

    model = FakeBackend().load(resolve_model("builtin:tiny-llama").folder)
    going = LocalEngine(model, codec, QUESTION, 400, {}).write(orders(), Sampling(max_tokens=16, batch_size=8))
    assert len([next(going) for _ in range(100)]) == 100
    assert len(taken) <= 100 + 2 * 8


def peak_of(codec: Codec, folder: Path, count: int) -> int:
    """Bytes that Python allocates at most while `count` rows, made as they are asked for, are augmented."""
    import tracemalloc

    class Rows(Sequence[Row]):
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: Any) -> Any:
            return Row(f"they came home in the {index}th hour and were glad of it", LABELS[index % 2])

        def __iter__(self) -> Iterator[Row]:
            return (self[index] for index in range(count))

    from rir_mlx.models.hub import resolve_model

    flags = ResultFlags(ReasoningFilters(codec, LABELS, QUESTION.instruction))
    engine = LocalEngine(FakeBackend().load(resolve_model("builtin:tiny-llama").folder), codec, QUESTION, 400, IDENTITY)
    tracemalloc.start()
    with Journal(folder / f"journal-{count}", flags) as journal:
        augmentation = AugmentationJob(Rows(), JOB, IDENTITY, flags, journal)
        augmentation.write(engine, Silent())
        assert len(journal) == count
        summary = AugmentationSummary()
        for outcome in augmentation.outcomes():
            summary.add(outcome)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_memory_grows_by_the_index_of_the_journal_alone(codec: Codec, tmp_path: Path) -> None:
    """Rows, orders and results that are held would be a thousand bytes each."""
    few, many = peak_of(codec, tmp_path, 400), peak_of(codec, tmp_path, 1_600)
    assert (many - few) / 1_200 < 350
