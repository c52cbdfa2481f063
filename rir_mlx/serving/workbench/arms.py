"""The arms of the run that is served: one is always loaded, another one on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rir_mlx.classification.classifier import Classifier
from rir_mlx.recipe.schema import Recipe
from rir_mlx.serving.jobs import Busy
from rir_mlx.serving.wire import Served
from rir_mlx.serving.worker import Limits, Worker
from rir_mlx.storage.layout import RunDir
from rir_mlx.types import Arm


@dataclass(frozen=True)
class ServedRun:
    """The run that is served, and how its arms are loaded and described. `arm` is the one that answers if a request
    names none."""

    run: RunDir
    recipe: Recipe
    arm: Arm
    load: Callable[[Arm], Classifier]
    describe: Callable[[Classifier], Served]

    @property
    def arms(self) -> list[Arm]:
        """The trained arms, the one that answers first."""
        others: Sequence[Arm] = self.run.trained_arms()  # type: ignore[assignment]
        return [self.arm, *(arm for arm in others if arm != self.arm)]


class Loaded(NamedTuple):
    """A loaded arm."""

    worker: Worker
    served: Served


class Arms:
    """Keeps one arm beside the main one, so that memory holds two at most."""

    def __init__(self, source: ServedRun, main: Loaded, limits: Limits) -> None:
        self.source, self.main, self.limits = source, main, limits
        self._other: Loaded | None = None
        self._kept = 0
        self._lock = threading.Lock()

    @property
    def loaded(self) -> list[Arm]:
        other = self._other
        return [self.main.served.arm, *([other.served.arm] if other else [])]

    def get(self, arm: Arm, *, keep: bool = False) -> Loaded:
        """The arm, loaded now if it is not; another one than the main one gives up its memory first, once it has
        answered what it was asked. Takes as long as loading does. `keep` keeps it until `let_go`.

        Raises Busy if another one is kept, and what loading raises."""
        if arm == self.main.served.arm:
            return self.main
        with self._lock:
            if self._other is None or self._other.served.arm != arm or not self._other.worker.alive:
                if self._kept:
                    raise Busy(10)
                self._give_up()
                worker = Worker(lambda: self.source.load(arm), self.limits)
                try:
                    self._other = Loaded(worker, self.source.describe(worker.start()))
                except BaseException:  # what describes it may refuse it: its model would stay
                    worker.stop(0)
                    raise
            self._kept += keep
            return self._other

    def let_go(self, arm: Arm) -> None:
        """The arm that was kept may give way again."""
        with self._lock:
            self._kept -= arm != self.main.served.arm

    def stop(self, timeout: float | None = None) -> None:
        """Answer what was submitted to the other arm, and end its thread."""
        with self._lock:
            self._give_up(timeout)

    def _give_up(self, timeout: float | None = None) -> None:
        if self._other is not None:
            self._other.worker.stop(timeout)
            self._other = None
