"""Logistic regression on features, with the regularisation chosen on rows that it was not fitted on.

Features are [rows, features], dense or sparse; probabilities are [rows, labels], in the order of `labels`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STRENGTHS = (3.0, 10.0, 30.0, 100.0)
_CHOOSING_ROWS = 10_000
_FOLDS = 3
_THREADS = 4
"""Each thread holds a copy of the rows, so more would cost memory."""


def one_against_rest(strength: float) -> Any:
    """Logistic regression of each label against the rest (LIBLINEAR); `strength` is scikit-learn's inverse
    regularisation C. On TF-IDF it converges faster than the multinomial form."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(LogisticRegression(C=strength, solver="liblinear", tol=1e-2))


def multinomial(strength: float) -> Any:
    """Logistic regression of all labels together (L-BFGS), for few features that are not sparse."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000)


@dataclass(frozen=True)
class Fitting:
    """How a regression is fitted. `make` gives an unfitted one of a strength, `seed` draws the rows that choose it."""

    make: Callable[[float], Any] = one_against_rest
    strengths: Sequence[float] = _STRENGTHS
    seed: int = 0


LabelledFeatures = tuple[Any, Sequence[str]]
"""Features and the label of each row."""


def regression_probabilities(
    train: LabelledFeatures,
    features: Any,
    labels: Sequence[str],
    fitting: Fitting,
    validation: LabelledFeatures | None = None,
) -> NDArray[np.float64]:
    """[rows, labels] probabilities of `features` by logistic regression on the training rows.

    The regularisation is chosen by accuracy on the validation rows, or in a three-fold cross-validation if there are
    none, on at most 10,000 rows; of ties it is the strongest. A label without training rows gets probability 0. Where
    all rows have one label, each label gets its share of the training rows."""
    x, y = train[0], np.array(train[1])
    probabilities = np.zeros((features.shape[0], len(labels)))
    if len(set(train[1])) < 2:
        probabilities[:] = shares(train[1], labels)
        return probabilities
    drawn = random.Random(fitting.seed).sample(range(len(y)), min(len(y), _CHOOSING_ROWS))
    sample = np.array(sorted(drawn))
    if validation is not None and len(validation[1]):
        parts = [(x[sample], y[sample], validation[0], np.array(validation[1]))]
    else:
        parts = []
        for held in np.array_split(np.random.default_rng(fitting.seed).permutation(sample), min(_FOLDS, len(sample))):
            rest = np.setdiff1d(sample, held)
            parts.append((x[rest], y[rest], x[held], y[held]))
    found = _fitted(fitting.make(_best_strength(fitting, parts)), x, y)
    columns = [list(labels).index(str(label)) for label in found.classes_]
    probabilities[:, columns] = found.predict_proba(features)
    return probabilities


def shares(train_labels: Sequence[str], labels: Sequence[str]) -> list[float]:
    """The share of the training rows that each label has."""
    counts = Counter(train_labels)
    return [counts[label] / max(1, len(train_labels)) for label in labels]


def _best_strength(fitting: Fitting, parts: Sequence[tuple[Any, Any, Any, Any]]) -> float:
    """The strength with the most correct rows over all folds, each (training rows, their labels, held-out rows, their
    labels); of ties, the first."""
    parts = [part for part in parts if len(set(part[1])) > 1]

    def correct_rows(strength: float) -> int:
        return sum(
            int((_fitted(fitting.make(strength), x, y).predict(held) == truth).sum()) for x, y, held, truth in parts
        )

    return max(fitting.strengths, key=correct_rows)


def _fitted(regression: Any, x: Any, y: Any) -> Any:
    import joblib

    threads = min(_THREADS, joblib.cpu_count(), len(set(y)))
    with joblib.parallel_config(backend="threading", n_jobs=threads):
        return regression.fit(x, y)
