"""What is fitted on validation rows after training: temperatures that make confidences true, the confidence below
which a reasoning is worth its tokens, and the confidence below which it is better not to answer.

Knows neither models nor files; arrays in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from rir_mlx.statistics.metrics import (
    Floats,
    Indices,
    bootstrap_means,
    right,
)
from rir_mlx.types import Way

NEVER = 0.0
ALWAYS = 2.0
"""Thresholds for `reason_below`: no confidence lies below 0, and every one below 2."""

_COLDEST, _HOTTEST = 0.05, 20.0
_FLOOR = 100.0
_PRIOR = 0.5


@dataclass(frozen=True)
class Calibration:
    """What validation rows say about a classifier. As made without arguments it changes nothing.

    temperature   for each way of reading a label: `direct` without a reasoning in front, `reasoned` after a greedy
                  reasoning, `sampled` averaged over several chains
    rows          validation rows that it was fitted on
    reason_below  `auto` reasons only where the direct confidence lies below this; None where it was not fitted
    answer_from   confidence from which answers were right as often as was wanted; None where none is, or nothing was
                  wanted
    """

    temperature: Mapping[Way, float] = field(default_factory=lambda: dict.fromkeys(get_args(Way), 1.0))
    rows: int = 0
    reason_below: float | None = None
    answer_from: float | None = None

    def probabilities(self, scores: Floats, way: Way) -> Floats:
        """[n, labels] log-probabilities, read in this way → [n, labels] calibrated probabilities."""
        return apply_temperature(scores, self.temperature[way])

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return {**asdict(self), "temperature": dict(self.temperature)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Calibration:
        """Raises ValueError that names the key and what was expected. A way of reading that is left out has
        temperature 1."""
        known = [one.name for one in fields(cls)]
        if unknown := set(found) - set(known):
            raise ValueError(f"unknown keys {sorted(unknown)}; expected {', '.join(known)}")
        temperature = found.get("temperature", {})
        if not isinstance(temperature, Mapping) or not set(temperature) <= set(get_args(Way)):
            raise ValueError(f"temperature is {temperature!r}; expected a number for each of {get_args(Way)}")
        for reading, value in temperature.items():
            if not _number(value) or value <= 0:
                raise ValueError(f"temperature.{reading} is {value!r}; expected a number above 0")
        rows = found.get("rows", 0)
        if not isinstance(rows, int) or isinstance(rows, bool) or rows < 0:
            raise ValueError(f"rows is {rows!r}; expected a whole number, 0 or more")
        for name in ("reason_below", "answer_from"):
            if (value := found.get(name)) is not None and (not _number(value) or value < 0):
                raise ValueError(f"{name} is {value!r}; expected null or a number, 0 or more")
        fitted: dict[Way, float] = {one: float(temperature.get(one, 1.0)) for one in get_args(Way)}
        return cls(fitted, rows, found.get("reason_below"), found.get("answer_from"))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def fit_temperature(scores: Floats, truth: Indices) -> float:
    """The T for which softmax(scores / T) gives `truth` [n] the least negative log-likelihood (Guo et al. 2017,
    arXiv:1706.04599); `scores` [n, labels] are log-probabilities, of which some may be -inf. Between 0.05 and 20.

    A weak prior, ln T normal with mean 0 and deviation 0.5, is added to the likelihood. It hardly moves a fit on
    hundreds of rows, and decides where the rows do not: few of them, or none wrong, where the likelihood alone would
    make every confidence 1. A row whose scores are all -inf is passed over. A label scored more than 100 below
    the row's best counts as 100 below, so that one row with a probability of 0 has not the only say. Raises ValueError
    where the shapes do not fit, or a score is not a number or +inf."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(f"scores has the shape {scores.shape} and truth {truth.shape}; expected [n, labels] and [n]")
    if np.isnan(scores).any() or np.isposinf(scores).any():
        raise ValueError("scores hold a number that is +inf or not a number; expected log-probabilities")
    usable = np.isfinite(scores).any(axis=1)
    if not usable.any():
        return 1.0
    best = scores[usable].max(axis=1, keepdims=True)
    scores = np.maximum(scores[usable] - best, -_FLOOR)
    of_truth = scores[np.arange(len(scores)), truth[usable]]

    def cost(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        surprise = logsumexp(scores / temperature, axis=1) - of_truth / temperature
        return float(surprise.sum()) + (log_temperature / _PRIOR) ** 2 / 2

    bounds = (math.log(_COLDEST), math.log(_HOTTEST))
    return math.exp(float(minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def apply_temperature(scores: Floats, temperature: float) -> Floats:
    """softmax(scores / temperature) over the last axis. -inf becomes 0; where all are -inf, every label is as
    probable. Raises ValueError for a temperature that is not above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature!r}; expected a number above 0")
    best = scores.max(axis=-1, keepdims=True)
    powers = np.exp(np.where(np.isneginf(best), 0.0, scores - np.where(np.isneginf(best), 0.0, best)) / temperature)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float64)


def reason_below(
    direct_confidence: Floats, direct_right: NDArray[np.bool_], reasoned_right: NDArray[np.bool_]
) -> float:
    """The threshold under which reasoning makes the most validation rows right: rows with a direct confidence below it
    count as `reasoned_right`, the others as `direct_right`, each [n].

    Every split of the confidences is tried. Of thresholds with equally many right rows the lowest is taken, which
    reasons least, so reasoning has to gain a row to be used. Rows of equal confidence stay together. The threshold lies
    halfway between the confidences it parts; `NEVER` (0) reasons about no row and `ALWAYS` (above 1) about each. No
    rows give NEVER."""
    confidence, group = np.unique(np.asarray(direct_confidence, dtype=np.float64), return_inverse=True)
    if len(confidence) == 0:
        return NEVER
    gain = np.asarray(reasoned_right, dtype=np.int64) - np.asarray(direct_right, dtype=np.int64)
    gains = np.cumsum(np.bincount(group, gain, minlength=len(confidence)))  # of reasoning up to this confidence
    last = int(np.argmax(gains))
    if gains[last] <= 0:
        return NEVER
    if last == len(confidence) - 1:
        return ALWAYS
    low, high = float(confidence[last]), float(confidence[last + 1])
    between = (low + high) / 2
    return between if between > low else high


def abstain_threshold(confidence: Floats, right: NDArray[np.bool_], wanted: float) -> float | None:
    """The lowest threshold such that the validation rows with at least that confidence reach the `wanted` accuracy,
    a share above 0 and at most 1; None where no threshold does, as with no rows.

    Rows of equal confidence are answered together or not at all. It is the confidence of the least sure row that is
    still answered, or 0 where all rows together reach what is wanted. What was reached on validation rows is an
    estimate: on others the accuracy lies above or below it. Raises ValueError for another `wanted`."""
    if not 0 < wanted <= 1:
        raise ValueError(f"the wanted accuracy is {wanted!r}; expected a share above 0 and at most 1")
    values, group = np.unique(np.asarray(confidence, dtype=np.float64), return_inverse=True)
    if len(values) == 0:
        return None
    answered = np.cumsum(np.bincount(group)[::-1])[::-1]
    hits = np.cumsum(np.bincount(group, np.asarray(right, dtype=np.float64))[::-1])[::-1]
    enough = np.flatnonzero(hits / answered >= wanted)
    if len(enough) == 0:
        return None
    return float(values[enough[0]]) if enough[0] > 0 else 0.0


def auto_curve(
    direct: Floats, reasoned: Floats, truth: Indices, tokens: NDArray[Any], points: int = 20
) -> list[dict[str, Any]]:
    """What `auto` would cost and reach at thresholds from NEVER to ALWAYS, with at most `points` + 1 of them at about
    equal steps of the share of rows reasoned about.

    `direct` and `reasoned` are probabilities [seeds, n, labels] without and after a reasoning, `tokens` [seeds, n] what
    the reasonings took. For each threshold: `threshold`, `share_reasoned`, `tokens_written` (mean of all rows, 0 for
    one that is not reasoned about) and `accuracy`: value, low and high, a 95 % interval over rows and seeds as in
    `metrics.figures`. All seeds share the thresholds."""
    confidence, of_direct, of_reasoned = direct.max(-1), right(truth, direct), right(truth, reasoned)
    if of_direct.shape != of_reasoned.shape or tokens.shape != of_direct.shape:
        raise ValueError(
            f"direct has the shape {direct.shape}, reasoned {reasoned.shape} and tokens {tokens.shape}; "
            "expected as many seeds and rows of each"
        )
    if confidence.size == 0:
        return []
    inner = np.quantile(confidence, np.arange(1, points) / points, method="inverted_cdf")
    thresholds = [NEVER, *np.unique(inner[inner > confidence.min()]).tolist(), ALWAYS]
    below = [confidence < threshold for threshold in thresholds]
    outcomes = np.stack([np.where(one, of_reasoned, of_direct) for one in below]).astype(np.float64)
    return [
        {
            "threshold": threshold,
            "share_reasoned": float(one.mean()),
            "tokens_written": float((tokens * one).mean()),
            "accuracy": asdict(interval),
        }
        for threshold, one, interval in zip(thresholds, below, bootstrap_means(outcomes), strict=True)
    ]
