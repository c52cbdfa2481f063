"""Arms and baselines of chosen accuracies, measured on rows that exist as numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rir_mlx.classification.scores import LabelScores
from rir_mlx.evaluation.entries import EntryPredictions, arm_predictions
from rir_mlx.evaluation.judgement.case import Case
from rir_mlx.evaluation.judgement.warnings import warnings
from rir_mlx.evaluation.schema import EntryKind
from rir_mlx.evaluation.scores import ClassifierScores, EvaluationRows, MeasuredArm, calibrate
from rir_mlx.types import Way

LABELS = ["joy", "sadness", "anger"]


def truth(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, count)


def label_scores(correct: np.ndarray, labels: np.ndarray, margin: float = 2.0, tokens: int = 0) -> LabelScores:
    """Scores that are about `margin` in favour of the row's label where `correct`, else of the next one."""
    draw = np.random.default_rng(len(correct))
    scores = draw.normal(0, 0.3, (len(labels), 3)) - 3
    scores[np.arange(len(labels)), np.where(correct, labels, (labels + 1) % 3)] += margin
    return LabelScores(scores, [None] * len(labels), [tokens] * len(labels), [0] * len(labels))


def share(count: int, of: float, seed: int = 0) -> np.ndarray:
    """True for that share of the rows, in some order."""
    return np.random.default_rng(seed).permutation(count) < round(of * count)


def rows(validation: int = 100, test: int = 80, clean: np.ndarray | None = None) -> EvaluationRows:
    return EvaluationRows(LABELS, truth(validation), truth(test, 1), np.ones(test, bool) if clean is None else clean)


def classifier_scores(
    on: EvaluationRows, *, validation: float = 0.7, test: float = 0.7, main_way: Way = "direct", seed: int = 0
) -> ClassifierScores:
    ways: tuple[Way, ...] = ("direct",) if main_way == "direct" else ("direct", "reasoned")
    held, tested = (
        {
            way: label_scores(share(len(part), accuracy, seed + place), part, tokens=7 * place)
            for place, way in enumerate(ways)
        }
        for part, accuracy in ((on.validation, validation), (on.test, test))
    )
    return ClassifierScores(main_way, held, tested, dict.fromkeys(ways, 0.01))


def arm(name: str, on: EvaluationRows, *, kind: EntryKind = "arm", seeds: int = 1, **more: Any) -> EntryPredictions:
    each = [classifier_scores(on, seed=10 * seed, **more) for seed in range(seeds)]
    measured = MeasuredArm("qa", each, [calibrate(scores, on, None) for scores in each])
    return replace(arm_predictions(measured, range(seeds), on), name=name, kind=kind)


def baseline(name: str, on: EvaluationRows, accuracy: float, *, probabilistic: bool = True) -> EntryPredictions:
    found = label_scores(share(len(on.test), accuracy, 5), on.test)
    return EntryPredictions(name, "baseline", np.exp(found.log_probabilities)[None], probabilistic=probabilistic)


def warned(entries: Sequence[EntryPredictions], on: EvaluationRows) -> list[str]:
    """What is warned of beside these entries."""
    return warnings(Case(entries, [], on, baseline("majority", on, 0.4, probabilistic=False)))
