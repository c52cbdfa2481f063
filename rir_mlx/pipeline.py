"""The Python API of the stages. Each function takes a recipe, does what the command of its name does, and returns
what came of it.

A recipe is a `Recipe`, a YAML file, the name of a shipped recipe ("demo", "emotion", …), or the folder of a run. None
is what the command takes if none is named: the default recipe for `run` and `train_rgen`, which start a run, and the
newest run for the others. The options are those of `OpenOptions`. Every function raises RecipeError, DataError or
ModelError for what the user gave, and Failure for work that failed.

Under `torchrun` or `mlx.launch` all processes call the same function; those after the first get None from a stage
that one process does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from rir_mlx import stages
from rir_mlx.augmentation.augmented_rows import read_stats
from rir_mlx.backends.processes import is_main, run_on_main
from rir_mlx.evaluation.report.plots import check_installed, write_plots
from rir_mlx.evaluation.schema import Comparison
from rir_mlx.guide.pilot.outlook import Outlook, outlook
from rir_mlx.guide.pilot.shortening import INFORMED, ROWS, pilot_recipe, write_pilot_rows
from rir_mlx.guide.planning import plan, plan_text
from rir_mlx.hub_access import without_network
from rir_mlx.progress import Progress, Silent
from rir_mlx.stages.context import Context
from rir_mlx.stages.opening import OpenOptions, RecipeSource, open_run
from rir_mlx.storage.layout import RunDir, Stage
from rir_mlx.training.recipe_model import RecipeModel
from rir_mlx.types import DEFAULT_RECIPE, RUNS, Arm, BackendName


class Options(TypedDict, total=False):
    """Keyword arguments of every stage; `OpenOptions` says what each one does."""

    runs: str | Path
    overrides: Sequence[str]
    backend: BackendName | None
    offline: bool
    progress: Progress | None
    force: bool
    command: str
    trust_recipe: bool


@dataclass(frozen=True)
class TrainingResult:
    """A finished training. `steps`, `tokens` and `seconds` were spent in all, `best_step` is the one whose weights were
    kept, `rows` were learned from. `arm` and `seed` are None for R-Gen."""

    adapter: Path
    steps: int
    tokens: int
    seconds: float
    best_step: int
    rows: int
    arm: Arm | None = None
    seed: int | None = None


@dataclass(frozen=True)
class AugmentationResult:
    """The rows with their reasonings, as JSONL files, and the statistics of `stats.json`."""

    train: Path
    validation: Path
    rejected: Path
    stats: dict[str, Any]


def run(recipe: RecipeSource, *, retry_refused: bool = False, **options: Unpack[Options]) -> Comparison | None:
    """Every stage of a recipe; finished ones are skipped. `retry_refused` asks a server again for the reasonings that
    it refused or failed on. Returns the comparison of the arms on the test rows, the content of `comparison.json`; None
    in processes other than the main one."""
    with _opened(DEFAULT_RECIPE if recipe is None else recipe, options) as context:
        if (planned := plan(context)) and len(planned) > 1:
            context.progress.say(plan_text(planned, context.backend.device().name))
        expected = {stage.name: stage.seconds for stage in planned if stage.seconds is not None}
        return stages.run_all(context, retry_refused=retry_refused, expected=expected)


def pilot(recipe: RecipeSource, *, rows: int = ROWS, **options: Unpack[Options]) -> Outlook | None:
    """Try a recipe out on few of its rows, in a run of its own (`NAME-pilot`), and say what the whole run will probably
    find. The recipe's test rows stay unseen. Returns None in processes other than the main one."""
    with _opened(DEFAULT_RECIPE if recipe is None else recipe, options) as whole:
        planned = plan(whole)
        folder = RunDir(whole.run.folder.with_name(f"{whole.recipe.name}-pilot"))
        data = whole.data.labelled
        short = pilot_recipe(whole.recipe, data, folder.pilot_rows)
        model = RecipeModel(short, whole.backend, whole.model.files)
        if planned:
            model.keep(whole.model.load())
        context = replace(whole, run=folder, model=model, overrides=(), informed_rows=INFORMED)
        comparison = _run_pilot(context, whole, rows)
        if comparison is None:
            return None
        falling = stages.falling_arms(context)
        known = [stage.seconds for stage in planned if stage.seconds is not None]
        unknown = [stage.name for stage in planned if stage.seconds is None]
        return outlook(comparison, sum(known) if known else None, unknown, len(data.train), falling)


@stages.exclusive
def _run_pilot(context: Context, whole: Context, rows: int) -> Comparison | None:
    """Write the rows of a pilot and run its stages. Another pilot of the same name is refused meanwhile, before it
    writes other rows."""

    def write() -> None:
        context.lock.lock()
        write_pilot_rows(whole.data.labelled, context.run.pilot_rows, rows, whole.recipe.seed)

    run_on_main(whole.processes, write)
    if to_do := plan(context):
        context.progress.say(plan_text(to_do, context.backend.device().name))
    return stages.run_all(context)


def train_rgen(recipe: RecipeSource, **options: Unpack[Options]) -> TrainingResult:
    """Stage 1: train R-Gen, which writes a reasoning from a question and its answer."""
    with _opened(DEFAULT_RECIPE if recipe is None else recipe, options) as context:
        stages.train_rgen(context)
        return _training_result(context.run.rgen)


def augment(
    recipe: RecipeSource, *, limit: int | None = None, retry_refused: bool = False, **options: Unpack[Options]
) -> AugmentationResult | None:
    """Write a reasoning for every labelled row and keep those that pass the filters. With a `limit`, only for so many
    rows; the stage then stays unfinished. `retry_refused` asks a server again for what it refused or failed on.
    Returns None in processes other than the main one."""
    with _opened(recipe, options, continues=True) as context:
        stages.augment_rows(context, limit, retry_refused=retry_refused)
        if not is_main(context.processes):
            return None
        folder = context.run
        return AugmentationResult(
            folder.augmented_rows("train"),
            folder.augmented_rows("validation"),
            folder.rejected_rows,
            read_stats(folder.stats),
        )


def train_classifier(
    recipe: RecipeSource, *, arms: Sequence[Arm] | None = None, **options: Unpack[Options]
) -> list[TrainingResult]:
    """Stage 2: train the classifier's arms, those of the recipe unless others are named. Returns a result for each arm
    and seed."""
    results = []
    with _opened(recipe, options, continues=True) as context:
        for arm in arms or context.recipe.classifier.arms:
            stages.train_classifier(context, arm)
            for seed in context.recipe.classifier.seeds:
                results.append(_training_result(context.trained(arm, seed), arm, seed))
            if arm == context.recipe.classifier.learning_curve:
                stages.train_learning_curve(context)
    return results


def evaluate(recipe: RecipeSource, *, png: bool = False, **options: Unpack[Options]) -> Comparison | None:
    """Measure the trained arms and the baselines on the test rows. Returns their comparison, the content of
    `comparison.json`; None in processes other than the main one. With `png`, also write the report's charts as PNG
    files; raises UserError if matplotlib is not installed."""
    if png:
        check_installed()
    with _opened(recipe, options, continues=True) as context:
        comparison = stages.evaluate(context)
        if png and comparison is not None:
            write_plots(context.run.plots, comparison)
            context.progress.say(f"Charts → {context.run.plots}")
        return comparison


def open_options(options: Options, *, continues: bool = False) -> OpenOptions:
    """The options of a stage's function, with their defaults. `continues`: of a stage after the first, which takes over
    the overrides that its run began with."""
    return OpenOptions(
        runs=Path(options.get("runs", RUNS)),
        overrides=tuple(options.get("overrides", ())),
        backend=options.get("backend"),
        offline=options.get("offline", False),
        progress=options.get("progress") or Silent(),
        force=options.get("force", False),
        command=options.get("command", ""),
        trust_recipe=options.get("trust_recipe", False),
        continues=continues,
    )


@contextmanager
def _opened(recipe: RecipeSource, options: Options, *, continues: bool = False) -> Iterator[Context]:
    """The run of a recipe, while the hub is out of reach if the caller wants it so."""
    opening = open_options(options, continues=continues)
    with without_network(opening.offline):
        yield open_run(recipe, opening)


def _training_result(stage: Stage, arm: Arm | None = None, seed: int | None = None) -> TrainingResult:
    results = (stage.done() or {})["results"]
    counted = {name: results[name] for name in ("steps", "tokens", "seconds", "best_step", "rows")}
    return TrainingResult(stage.adapter, **counted, arm=arm, seed=seed)
