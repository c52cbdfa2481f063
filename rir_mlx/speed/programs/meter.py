"""What one trainer's run is measured by: time and tokens of each step, peak memory, losses, the work of a step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, TypeVar

from rir_mlx.backends.limits.memory import watch_memory
from rir_mlx.speed.job import Job
from rir_mlx.speed.work import Work

T = TypeVar("T")


class Meter:
    """What a trainer reports while it runs: weights loaded, then the end of each step. It fills in the losses, others
    the `settings` that a reader must know, and `ours` the work of each step and its rows at a time."""

    def __init__(self, job: Job) -> None:
        self.job, self.batch = job, job.batch
        self.losses: list[float] = []
        self.works: list[Work] = []
        self.tokens, self.place, self.about, self.settings = 0, "mlx", "", ""
        if job.backend == "torch":
            import torch

            self.place = "cuda" if torch.cuda.is_available() else "cpu"
            self.about = torch.cuda.get_device_name() if self.place == "cuda" else f"{torch.get_num_threads()} threads"
            # Whatever the trainer, its tokens enter the model through this function.
            embedding = torch.nn.functional.embedding

            def counted(ids: Any, *given: Any, **named: Any) -> Any:
                self.tokens += ids.numel()
                return embedding(ids, *given, **named)

            torch.nn.functional.embedding = counted

    def loaded(self, weights: int) -> None:
        """`weights` in bytes. The model has run once before, so that all of them are resident."""
        self.weights, self.tokens = weights / 2**30, 0
        self.peak = watch_memory(self.place)
        self.ends = [time.perf_counter()]

    def begin(self) -> None:
        """Count steps from now on: what ran before tried sizes."""
        self.ends, self.tokens = [time.perf_counter()], 0

    def step(self) -> None:
        if self.place == "cuda":
            import torch

            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def full(self) -> bool:
        """Whether the time is over, of a job that has one, and a step counts."""
        warmup = self.job.warmup
        if not self.job.seconds or len(self.ends) < warmup + 2:
            return False
        return self.ends[-1] - self.ends[warmup] > self.job.seconds

    def until_full(self, groups: Iterable[T]) -> Iterator[T]:
        for group in groups:
            if self.full():
                return
            yield group

    def measured(self) -> dict[str, Any]:
        warmup, steps = self.job.warmup, len(self.ends) - 1
        seconds = [after - before for before, after in pairwise(self.ends)][warmup:]
        measured: dict[str, Any] = {"rows/s": self.batch * len(seconds) / sum(seconds), "seconds": seconds}
        measured |= {"tokens a row": self.tokens / (self.batch * steps), "peak GB": self.peak()}
        return measured | {"weights GB": self.weights, "losses": self.losses, "about": self.about}
