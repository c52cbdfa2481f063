"""TF-IDF with logistic regression, and the most frequent label.

Probabilities are [texts, labels], with the columns in the order of `labels`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rir_mlx.statistics.metrics import majority

Rows = Sequence[tuple[str, str]]
"""Texts, each with its label."""

_WORDS, _CHARACTERS = 20_000, 40_000
"""Features of each kind that are kept: the most frequent ones."""
_STRENGTHS = (3.0, 10.0, 30.0, 100.0)
_CHOOSING_ROWS = 10_000
_FOLDS = 3
_THREADS = 4
"""Each holds a copy of the rows."""


def majority_probabilities(train_labels: Sequence[str], labels: Sequence[str], n: int) -> NDArray[np.float64]:
    """[n, labels]: 1 for the label that the training rows hold most often, 0 for the others."""
    probabilities = np.zeros((n, len(labels)))
    probabilities[:, list(labels).index(majority(train_labels))] = 1.0
    return probabilities


def word_features(most: int = _WORDS) -> Any:
    """TF-IDF of words and pairs of them, words of one letter too."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=most, token_pattern=r"(?u)\b\w+\b")


def regression(strength: float) -> Any:
    """Logistic regression of each label against the rest (LIBLINEAR), which weighs errors by `strength` (scikit-learn's
    C). On TF-IDF it ends sooner than the multinomial form, and its solver does not stop before it has learned."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(LogisticRegression(C=strength, solver="liblinear", tol=1e-2))


def tfidf(
    train: Rows, texts: Sequence[str], labels: Sequence[str], seed: int, validation: Rows = ()
) -> NDArray[np.float64]:
    """[texts, labels] probabilities of logistic regression on TF-IDF of words, pairs of words, and two to five
    characters inside of words.

    The regularisation is the one with the best accuracy on the validation rows, or without them in a
    cross-validation over three folds; at most 10,000 rows take part in the choice, drawn by the seed. A label that no
    training row has gets 0."""
    shares = Counter(label for _, label in train)
    probabilities = np.zeros((len(texts), len(labels)))
    features = _fitted_features([text for text, _ in train])
    if len(shares) < 2 or not features or not texts:
        probabilities[:] = [shares[label] / max(1, len(train)) for label in labels]
        return probabilities
    x, y = _transformed(features, [text for text, _ in train]), np.array([label for _, label in train])
    sample = np.array(sorted(random.Random(seed).sample(range(len(y)), min(len(y), _CHOOSING_ROWS))))
    if validation:
        held_x, held_y = _transformed(features, [text for text, _ in validation]), [label for _, label in validation]
        parts = [(x[sample], y[sample], held_x, np.array(held_y))]
    else:
        parts = []
        for held in np.array_split(np.random.default_rng(seed).permutation(sample), min(_FOLDS, len(sample))):
            rest = np.setdiff1d(sample, held)
            parts.append((x[rest], y[rest], x[held], y[held]))
    found = _fitted(_best_strength(parts), x, y)
    columns = [list(labels).index(str(label)) for label in found.classes_]
    probabilities[:, columns] = found.predict_proba(_transformed(features, texts))
    return probabilities


def _fitted_features(texts: Sequence[str]) -> list[Any]:
    """The kinds of features that the texts have: those without any word have characters alone."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=_CHARACTERS)
    fitted = []
    for features in (word_features(), characters):
        try:
            fitted.append(features.fit(texts))
        except ValueError:  # an empty vocabulary
            continue
    return fitted


def _transformed(features: Sequence[Any], texts: Sequence[str]) -> Any:
    from scipy.sparse import hstack

    return hstack([one.transform(texts) for one in features], format="csr")


def _best_strength(parts: Sequence[tuple[Any, Any, Any, Any]]) -> float:
    """Of the strengths the one with the most right rows over all (training, its labels, held out, its labels); of
    equals the smallest."""
    parts = [part for part in parts if len(set(part[1])) > 1]

    def right(strength: float) -> int:
        return sum(int((_fitted(strength, x, y).predict(held) == truth).sum()) for x, y, held, truth in parts)

    return max(_STRENGTHS, key=right)


def _fitted(strength: float, x: Any, y: Any) -> Any:
    import joblib

    threads = min(_THREADS, joblib.cpu_count(), len(set(y)))
    with joblib.parallel_config(backend="threading", n_jobs=threads):
        return regression(strength).fit(x, y)
