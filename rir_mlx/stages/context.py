"""What every stage works with, and whether it is due."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from rir_mlx.backends.base import Backend, ProcessGroup
from rir_mlx.backends.processes import is_main, run_on_main
from rir_mlx.classification.loading import RecipeModel, seed_suffix, trained_stage
from rir_mlx.progress import Progress, Silent
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.recipe.schema import Recipe
from rir_mlx.stages.run_data import RunData
from rir_mlx.storage.layout import RunDir, Stage
from rir_mlx.storage.run_lock import RunLock
from rir_mlx.types import Arm

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True)
class Context:
    """A run's folder, the model and data of its recipe, and how the user wants to hear about it. `force` runs a stage
    again even if nothing changed; `command` is what was typed. `trusts_server`: the user, and not only the recipe,
    named the server that texts and the key are sent to."""

    run: RunDir
    model: RecipeModel
    progress: Progress = field(default_factory=Silent)
    force: bool = False
    command: str = ""
    trusts_server: bool = False

    @property
    def recipe(self) -> Recipe:
        return self.model.recipe

    @cached_property
    def data(self) -> RunData:
        return RunData(self.recipe, self.progress)

    @cached_property
    def lock(self) -> RunLock:
        return RunLock(self.run.folder, self.command)

    @property
    def backend(self) -> Backend:
        return self.model.backend

    @property
    def processes(self) -> ProcessGroup:
        return self.backend.processes

    @property
    def task(self) -> ClassificationTask:
        """What the recipe's classifiers are asked."""
        return ClassificationTask(
            self.data.labels,
            self.recipe.data.instruction,
            self.recipe.max_seq_length,
            self.recipe.evaluate.max_reasoning_tokens,
        )

    def trained(self, arm: Arm, seed: int) -> Stage:
        """The folder of an arm that was trained with a seed."""
        return trained_stage(self.run, self.recipe, arm, seed)

    def seed_suffix(self, seed: int) -> str:
        return seed_suffix(self.recipe, seed)


def exclusive(stage: Callable[Concatenate[Context, P], T]) -> Callable[Concatenate[Context, P], T]:
    """A stage during which no other call writes the same run: raises UserError if one does already."""

    @wraps(stage)
    def run(context: Context, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with _locked(context):
            return stage(context, *args, **kwargs)

    return run


@contextmanager
def _locked(context: Context) -> Iterator[None]:
    """Hold the run's lock, in the main process for all."""
    run_on_main(context.processes, context.lock.begin)
    try:
        yield
    finally:
        if is_main(context.processes):
            context.lock.end()


def on_main_process(stage: Callable[Concatenate[Context, P], T]) -> Callable[Concatenate[Context, P], T | None]:
    """A stage that runs in one process: the other ranks wait for it, and get None."""

    @wraps(stage)
    def run(context: Context, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        return run_on_main(context.processes, lambda: stage(context, *args, **kwargs))

    return run


def is_due(context: Context, stage: Stage, inputs: dict[str, Any], what: str, *, begins: bool = True) -> bool:
    """Whether a stage has to run; says why. The run's recipe is then saved, unless the stage `begins` later."""
    why = stage.why_not_done(inputs)
    if why is None and not context.force:
        context.progress.say(f"{what}: already done with these inputs, skipped → {stage.folder}")
        return False
    reason = why or "--force was given"
    context.progress.say(f"{what}: runs, because {reason}.")
    context.lock.lock()
    if begins:
        context.run.save_recipe(context.recipe)
    return True
