"""One plain function a stage. Each checks whether it is due, says what it costs, works, and writes its artifacts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from rir_mlx.evaluation.schema import Comparison
from rir_mlx.progress import Pace
from rir_mlx.stages.augmentation import augment_rows, exact_prompts
from rir_mlx.stages.checking import check, sort_out, warn_about_data
from rir_mlx.stages.context import Context, exclusive
from rir_mlx.stages.evaluation import evaluate, falling_arms
from rir_mlx.stages.measuring import calibrate_arm
from rir_mlx.stages.opening import OpenOptions, RecipeSource, open_run, open_trained_run, recipe_of_rows
from rir_mlx.stages.training import train_classifier, train_learning_curve, train_rgen
from rir_mlx.training.cost import duration

__all__ = [
    "Context",
    "OpenOptions",
    "RecipeSource",
    "augment_rows",
    "calibrate_arm",
    "check",
    "evaluate",
    "exact_prompts",
    "exclusive",
    "falling_arms",
    "in_order",
    "open_run",
    "open_trained_run",
    "recipe_of_rows",
    "run_all",
    "sort_out",
    "train_classifier",
    "train_learning_curve",
    "train_rgen",
    "warn_about_data",
]

_WORTH_SAYING = 30.0
"""Seconds. Who waits less need not be told."""


def in_order(context: Context, *, retry_refused: bool = False) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The stages of the recipe in order, each by its name; the last returns the comparison. Faults of the data are
    found before any stage. `retry_refused` is passed on to `augment_rows`."""
    arms = context.recipe.classifier.arms
    context.data.test_rows()
    if set(arms) != {"qa"}:
        if context.data.needs_rgen():
            _ = context.data.triples
            yield "R-Gen", partial(train_rgen, context)
        yield "augmentation", partial(augment_rows, context, retry_refused=retry_refused)
    for arm in arms:
        yield f"classifier {arm}", partial(train_classifier, context, arm)
    if context.recipe.classifier.learning_curve is not None:
        yield "learning curve", partial(train_learning_curve, context)
    yield "evaluation", partial(evaluate, context)


@exclusive
def run_all(
    context: Context, *, retry_refused: bool = False, expected: Mapping[str, float] | None = None
) -> Comparison | None:
    """Every stage in order; finished ones are skipped. `expected` are seconds that stages were said to take: what is
    left is said again before each further one, at the pace of those before."""
    comparison, stages = None, list(in_order(context, retry_refused=retry_refused))
    pace = Pace(expected or {})
    for number, (name, stage) in enumerate(stages, 1):
        left = pace.left([name for name, _ in stages[number - 1 :]])
        if left is not None and left >= _WORTH_SAYING:
            context.progress.say(f"Left: about {duration(left)}, at the pace so far.")
        context.progress.say(f"Stage {number} of {len(stages)}: {name}")
        began = time.monotonic()
        comparison = stage()
        pace.took(name, time.monotonic() - began)
    return comparison
