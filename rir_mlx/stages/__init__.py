"""One plain function a stage. Each checks whether it is done, says what it costs, works, and writes its artifacts."""

from __future__ import annotations

from typing import Any

from rir_mlx.stages.augmentation import augment_rows, exact_prompts
from rir_mlx.stages.checking import check, warn
from rir_mlx.stages.context import Context, resolve_recipe
from rir_mlx.stages.evaluation import evaluate
from rir_mlx.stages.prediction import (
    classifier_identity,
    default_arm,
    load_classifier,
    predict,
)
from rir_mlx.stages.training import train_classifier, train_rgen

__all__ = [
    "Context",
    "augment_rows",
    "check",
    "classifier_identity",
    "default_arm",
    "evaluate",
    "exact_prompts",
    "load_classifier",
    "predict",
    "resolve_recipe",
    "run_all",
    "train_classifier",
    "train_rgen",
    "warn",
]


def run_all(context: Context) -> dict[str, Any] | None:
    """Every stage in order; what is done is skipped. Faults of the data are found before any training."""
    arms = context.recipe.classifier.arms
    context.test_rows()
    if set(arms) != {"qa"}:
        if context.needs_rgen():
            _ = context.triples
            train_rgen(context)
        augment_rows(context)
    for arm in arms:
        train_classifier(context, arm)
    return evaluate(context)
