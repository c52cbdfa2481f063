"""Baselines that need no language model: TF-IDF with logistic regression, and the most frequent label.

Probabilities are [texts, labels], with columns in the order of `labels`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rir_mlx.statistics.metrics import majority

LabelledTexts = Sequence[tuple[str, str]]
"""Pairs of a text and its label."""

_WORDS, _CHARACTERS = 20_000, 40_000
"""How many of the most frequent features of each kind are kept."""
_STRENGTHS = (3.0, 10.0, 30.0, 100.0)
_CHOOSING_ROWS = 10_000
_FOLDS = 3
_THREADS = 4
"""Each thread holds a copy of the rows, so more would cost memory."""


def majority_probabilities(train_labels: Sequence[str], labels: Sequence[str], n: int) -> NDArray[np.float64]:
    """[n, labels]: 1 for the most frequent label of the training rows, 0 for the others."""
    probabilities = np.zeros((n, len(labels)))
    probabilities[:, list(labels).index(majority(train_labels))] = 1.0
    return probabilities


def word_features(most: int = _WORDS) -> Any:
    """TF-IDF of words, including those of one letter, and of pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=most, token_pattern=r"(?u)\b\w+\b")


def regression(strength: float) -> Any:
    """Logistic regression of each label against the rest (LIBLINEAR); `strength` is scikit-learn's inverse
    regularisation C. On TF-IDF it converges faster than the multinomial form."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(LogisticRegression(C=strength, solver="liblinear", tol=1e-2))


def tfidf(
    train: LabelledTexts, texts: Sequence[str], labels: Sequence[str], seed: int, validation: LabelledTexts = ()
) -> NDArray[np.float64]:
    """[texts, labels] probabilities of logistic regression on TF-IDF of words, pairs of words, and sequences of two to
    five characters within words.

    The regularisation is chosen by accuracy on the validation rows, or in a three-fold cross-validation if there are
    none, on at most 10,000 rows drawn with `seed`. A label without training rows gets probability 0."""
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
    """Fitted vectorizers, leaving out a kind that the texts have no features of (texts without any word)."""
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

    return hstack([vectorizer.transform(texts) for vectorizer in features], format="csr")


def _best_strength(parts: Sequence[tuple[Any, Any, Any, Any]]) -> float:
    """The strength with the most correct rows over all folds, each (training rows, their labels, held-out rows, their
    labels); of ties, the smallest."""
    parts = [part for part in parts if len(set(part[1])) > 1]

    def correct_rows(strength: float) -> int:
        return sum(int((_fitted(strength, x, y).predict(held) == truth).sum()) for x, y, held, truth in parts)

    return max(_STRENGTHS, key=correct_rows)


def _fitted(strength: float, x: Any, y: Any) -> Any:
    import joblib

    threads = min(_THREADS, joblib.cpu_count(), len(set(y)))
    with joblib.parallel_config(backend="threading", n_jobs=threads):
        return regression(strength).fit(x, y)
