"""Baselines that need no language model: TF-IDF with logistic regression, and the most frequent label.

Probabilities are [texts, labels], with columns in the order of `labels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rir_mlx.statistics.metrics import majority
from rir_mlx.statistics.regression import Fitting, LabelledFeatures, regression_probabilities, shares

LabelledTexts = Sequence[tuple[str, str]]
"""Pairs of a text and its label."""

_WORDS, _CHARACTERS = 20_000, 40_000
"""How many of the most frequent features of each kind are kept."""


def majority_probabilities(train_labels: Sequence[str], labels: Sequence[str], n: int) -> NDArray[np.float64]:
    """[n, labels]: 1 for the most frequent label of the training rows, 0 for the others."""
    probabilities = np.zeros((n, len(labels)))
    probabilities[:, list(labels).index(majority(train_labels))] = 1.0
    return probabilities


def word_features(most: int = _WORDS) -> Any:
    """TF-IDF of words, including those of one letter, and of pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=most, token_pattern=r"(?u)\b\w+\b")


def tfidf(
    train: LabelledTexts, texts: Sequence[str], labels: Sequence[str], seed: int, validation: LabelledTexts = ()
) -> NDArray[np.float64]:
    """[texts, labels] probabilities of logistic regression on TF-IDF of words, pairs of words, and sequences of two to
    five characters within words.

    `regression_probabilities` says how; the validation rows choose its regularisation. Where no text has a feature,
    each label gets its share of the training rows."""
    probabilities = np.zeros((len(texts), len(labels)))
    features = _fitted_features([text for text, _ in train])
    if not features or not texts:
        probabilities[:] = shares([label for _, label in train], labels)
        return probabilities
    known, asked = _labelled(features, train), _transformed(features, texts)
    held = _labelled(features, validation) if validation else None
    return regression_probabilities(known, asked, labels, Fitting(seed=seed), held)


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


def _labelled(features: Sequence[Any], rows: LabelledTexts) -> LabelledFeatures:
    return _transformed(features, [text for text, _ in rows]), [label for _, label in rows]


def _transformed(features: Sequence[Any], texts: Sequence[str]) -> Any:
    from scipy.sparse import hstack

    return hstack([vectorizer.transform(texts) for vectorizer in features], format="csr")
