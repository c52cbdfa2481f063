"""What is fitted on validation rows after training: temperatures that calibrate confidences, the confidence below
which a reasoning is worth its tokens, and the confidence below which the classifier abstains.

Knows neither models nor files: arrays in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from rir_mlx.statistics.intervals import FloatArray, Interval, share_interval
from rir_mlx.statistics.metrics import IndexArray, correct
from rir_mlx.statistics.several_labels import EVEN
from rir_mlx.types import AnswerMode, Way

NEVER = 0.0
ALWAYS = 2.0
"""Values of `reason_below`: no confidence lies below 0, and every confidence lies below 2."""
NO_ANSWER = 2.0
"""The value of `answer_from` that abstains on every text."""
RISK = 0.05
"""How often a fitted threshold may miss the wanted accuracy."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Bounds of a fitted temperature."""
_AT_BOUND = 0.002
"""The search for a temperature ends nearer to a bound than this, in logarithms."""
_MAX_GAP = 100.0
_PRIOR_DEVIATION = 0.5


@dataclass(frozen=True)
class AnswerThreshold:
    """The confidence from which a classifier answers, and the validation rows that it answers then."""

    confidence: float
    rows: int


@dataclass(frozen=True)
class Calibration:
    """What is fitted for a classifier on validation rows. Without arguments it changes nothing.

    temperature   for each way of scoring a label: `direct` without a reasoning in front, `reasoned` after a greedy
                  reasoning, `sampled` averaged over several chains
    rows          validation rows that it was fitted on
    reason_below  `auto` reasons only where the direct confidence is below this; None if it was not fitted
    answer_from   for each mode that was measured, the lowest confidence at which the classifier answers, chosen for a
                  wanted accuracy; `NO_ANSWER` where no threshold is shown to reach it. None if none was wanted
    wanted        the accuracy that `answer_from` was chosen for
    samples       the reasonings over which `sampled` was averaged; 0 if it was not measured, None if nobody knows
    sample_temperature  the temperature at which these were drawn; None if nobody knows
    given_from    for each way of scoring, the probability from which on a label is given, by label: only where a text
                  may have several labels
    """

    temperature: Mapping[Way, float] = field(default_factory=lambda: dict.fromkeys(get_args(Way), 1.0))
    rows: int = 0
    reason_below: float | None = None
    answer_from: Mapping[AnswerMode, AnswerThreshold] | None = None
    given_from: Mapping[Way, Mapping[str, float]] = field(default_factory=dict)
    wanted: float | None = None
    samples: int | None = 0
    sample_temperature: float | None = None

    def wanting(self, accuracy: float | None) -> Calibration:
        """This calibration where such an accuracy is wanted: with no threshold at all, which no way of classifying
        passes, if it was chosen for another one or not measured."""
        if accuracy is None:
            return self if self.wanted is None else replace(self, answer_from=None, wanted=None)
        if self.answer_from is None or self.wanted not in (None, accuracy):
            return replace(self, answer_from={}, wanted=accuracy)
        return self

    def probabilities(self, scores: FloatArray, way: Way) -> FloatArray:
        """[n, labels] log-probabilities scored in this way → [n, labels] calibrated probabilities."""
        return apply_temperature(scores, self.temperature[way])

    def thresholds(self, way: Way, labels: Sequence[str]) -> FloatArray:
        """[labels] the probability from which on each is given, 0.5 where it was not fitted."""
        fitted = self.given_from.get(way, {})
        return np.array([fitted.get(label, EVEN) for label in labels])

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON. `from_dict` reads them back."""
        thresholds = None if self.answer_from is None else {key: asdict(at) for key, at in self.answer_from.items()}
        values = {**asdict(self), "temperature": dict(self.temperature), "answer_from": thresholds}
        return values if self.given_from else {key: value for key, value in values.items() if key != "given_from"}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Calibration:
        """A way of scoring that is left out has temperature 1. Raises ValueError with the key and what was expected."""
        if found.get("answered_rows", 0) is None:  # as it was written before thresholds were fitted for each mode
            found = {name: value for name, value in found.items() if name != "answered_rows"}
        known = [entry.name for entry in fields(cls)]
        if unknown := set(found) - set(known):
            raise ValueError(f"unknown keys {sorted(unknown)}; expected {', '.join(known)}")
        temperature = found.get("temperature", {})
        if not isinstance(temperature, Mapping) or not set(temperature) <= set(get_args(Way)):
            raise ValueError(f"temperature is {temperature!r}; expected a number for each of {get_args(Way)}")
        for way, value in temperature.items():
            if not _number(value) or value <= 0:
                raise ValueError(f"temperature.{way} is {value!r}; expected a number above 0")
        rows = found.get("rows", 0)
        if not isinstance(rows, int) or isinstance(rows, bool) or rows < 0:
            raise ValueError(f"rows is {rows!r}; expected a whole number, 0 or more")
        if (value := found.get("reason_below")) is not None and (not _number(value) or value < 0):
            raise ValueError(f"reason_below is {value!r}; expected null or a number, 0 or more")
        fitted: dict[Way, float] = {way: float(temperature.get(way, 1.0)) for way in get_args(Way)}
        wanted, samples = found.get("wanted"), found.get("samples")
        if wanted is not None and (not _number(wanted) or not 0 < wanted <= 1):
            raise ValueError(f"wanted is {wanted!r}; expected null or a share above 0 and at most 1")
        if samples is not None and (not isinstance(samples, int) or isinstance(samples, bool) or samples < 0):
            raise ValueError(f"samples is {samples!r}; expected null or a whole number, 0 or more")
        if (drawn := found.get("sample_temperature")) is not None and (not _number(drawn) or drawn <= 0):
            raise ValueError(f"sample_temperature is {drawn!r}; expected null or a number above 0")
        thresholds, given_from = _thresholds(found.get("answer_from")), _given_from(found.get("given_from", {}))
        return cls(fitted, rows, found.get("reason_below"), thresholds, given_from, wanted, samples, drawn)


@dataclass(frozen=True)
class AutoPoint:
    """The cost and accuracy of `auto` at one threshold."""

    threshold: float
    share_reasoned: float
    """Share of the rows that get a reasoning."""
    tokens_generated: float
    """Mean over all rows, of which those without a reasoning count 0."""
    accuracy: Interval
    """With an interval over rows and seeds, as in `metrics.metric_intervals`."""


def abstains(probability: float, threshold: float | None) -> bool:
    """Whether a classifier withholds its most probable label: its probability lies below the threshold. None as the
    threshold never abstains."""
    return threshold is not None and probability < threshold


def _thresholds(found: object) -> Mapping[AnswerMode, AnswerThreshold] | None:
    if found is None:
        return None
    if not isinstance(found, Mapping) or not set(found) <= set(get_args(AnswerMode)):
        raise ValueError(f"answer_from is {found!r}; expected null or a threshold for each of {get_args(AnswerMode)}")
    thresholds: dict[AnswerMode, AnswerThreshold] = {}
    for mode, value in found.items():
        match value:
            case {"confidence": int() | float() as confidence, "rows": int() as rows, **more} if (
                not more and _number(confidence) and confidence >= 0 and rows >= 0
            ):
                thresholds[mode] = AnswerThreshold(float(confidence), rows)
            case _:
                raise ValueError(f"answer_from.{mode} is {value!r}; expected a confidence and rows, each 0 or more")
    return thresholds


def _given_from(found: object) -> Mapping[Way, Mapping[str, float]]:
    if not isinstance(found, Mapping) or not set(found) <= set(get_args(Way)):
        raise ValueError(f"given_from is {found!r}; expected thresholds for each of {get_args(Way)}")
    for way, thresholds in found.items():
        if not isinstance(thresholds, Mapping) or not all(map(_number, thresholds.values())):
            raise ValueError(f"given_from.{way} is {thresholds!r}; expected a number for each label")
    return {way: {label: float(value) for label, value in each.items()} for way, each in found.items()}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def fit_temperature(scores: FloatArray, truth: IndexArray, shares: FloatArray | None = None) -> float:
    """The T, from 0.05 to 20, for which softmax(scores / T) gives `truth` [n] the smallest negative log-likelihood
    (Guo et al. 2017, arXiv:1706.04599). `scores` [n, labels] are log-probabilities; some may be -inf. With `shares` [n,
    labels] it is the cross-entropy against these distributions.

    A weak prior is added: ln T is normal with mean 0 and deviation 0.5. It hardly moves a fit on hundreds of rows. It
    decides where there are few rows, or none is wrong and the likelihood alone would make every confidence 1. Rows
    whose scores are all -inf are ignored. A label scored more than 100 below the row's best counts as 100 below, so
    that a single row with a probability of 0 does not decide the fit. Raises ValueError if the shapes do not match,
    or a score is NaN or +inf."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(f"scores has the shape {scores.shape} and truth {truth.shape}; expected [n, labels] and [n]")
    if np.isnan(scores).any() or np.isposinf(scores).any():
        raise ValueError("scores hold +inf or NaN; expected log-probabilities")
    usable = np.isfinite(scores).any(axis=1)
    if not usable.any():
        return 1.0
    best = scores[usable].max(axis=1, keepdims=True)
    scores = np.maximum(scores[usable] - best, -_MAX_GAP)
    of_truth = scores[np.arange(len(scores)), truth[usable]]
    if shares is not None:
        of_truth = np.asarray((shares[usable] * scores).sum(1))

    def cost(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        surprise = logsumexp(scores / temperature, axis=1) - of_truth / temperature
        return float(surprise.sum()) + (log_temperature / _PRIOR_DEVIATION) ** 2 / 2

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    return math.exp(float(minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def at_bound(temperature: float) -> float | None:
    """The bound of fitted temperatures at which one lies, None if it lies between them."""
    bounds = (MIN_TEMPERATURE, MAX_TEMPERATURE)
    return next((bound for bound in bounds if abs(math.log(temperature / bound)) < _AT_BOUND), None)


def apply_temperature(scores: FloatArray, temperature: float) -> FloatArray:
    """softmax(scores / temperature) over the last axis. -inf becomes 0; where all scores are -inf,
    every label is equally probable. Raises ValueError for a temperature that is not above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature!r}; expected a number above 0")
    best = scores.max(axis=-1, keepdims=True)
    powers = np.exp(np.where(np.isneginf(best), 0.0, scores - np.where(np.isneginf(best), 0.0, best)) / temperature)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float64)


def fit_reason_below(
    direct_confidence: FloatArray, direct_correct: NDArray[np.bool_], reasoned_correct: NDArray[np.bool_]
) -> float:
    """The threshold that makes the most validation rows correct: rows whose direct confidence lies below it count as
    `reasoned_correct`, the others as `direct_correct`, each [n].

    Every split of the confidences is tried. Of ties the lowest threshold is taken, so that reasoning has to gain a row
    to be used. Rows of equal confidence stay together. The threshold lies halfway between the two confidences that it
    separates. `NEVER` (0) reasons about no row, `ALWAYS` (above 1) about every row. Without rows it is NEVER."""
    confidence, group = np.unique(np.asarray(direct_confidence, dtype=np.float64), return_inverse=True)
    if len(confidence) == 0:
        return NEVER
    gain = np.asarray(reasoned_correct, dtype=np.int64) - np.asarray(direct_correct, dtype=np.int64)
    gains = np.cumsum(np.bincount(group, gain, minlength=len(confidence)))  # of reasoning up to this confidence
    last = int(np.argmax(gains))
    if gains[last] <= 0:
        return NEVER
    if last == len(confidence) - 1:
        return ALWAYS
    low, high = float(confidence[last]), float(confidence[last + 1])
    between = (low + high) / 2
    return between if between > low else high


def fit_answer_from(
    confidence: FloatArray, correct: NDArray[np.bool_], wanted: float, risk: float = RISK
) -> AnswerThreshold:
    """The threshold with the highest coverage found at which answers are correct with the `wanted` probability, a share
    above 0 and at most 1, on other rows too: with a certainty of 1 - `risk` over draws of the validation rows [n].

    It is "selection with guaranteed risk" (Geifman and El-Yaniv 2017, arXiv:1705.08500): a binary search over the
    confidences, each step of which asks whether the lower bound of the accuracy (Clopper and Pearson 1934), corrected
    for the number of steps, reaches the wanted one. Rows of equal confidence are answered together or not at all. The
    threshold is 0 where all rows may be answered, and `NO_ANSWER` where no step reaches the wanted accuracy: few rows
    cannot show a high accuracy, however many are correct. Raises ValueError for another `wanted`."""
    if not 0 < wanted <= 1:
        raise ValueError(f"the wanted accuracy is {wanted!r}; expected a share above 0 and at most 1")
    values, group = np.unique(np.asarray(confidence, dtype=np.float64), return_inverse=True)
    if len(values) == 0:
        return AnswerThreshold(NO_ANSWER, 0)
    answered = np.cumsum(np.bincount(group)[::-1])[::-1]
    hits = np.cumsum(np.bincount(group, np.asarray(correct, dtype=np.float64))[::-1])[::-1]
    steps = 1 + math.ceil(math.log2(len(values)))
    risk /= steps
    best, low, high = AnswerThreshold(NO_ANSWER, 0), -1, len(values) - 1
    place = 0  # whether all rows may be answered is asked first
    for _ in range(steps):
        rows = int(answered[place])
        if _lower_bound(int(hits[place]), rows, risk) >= wanted:
            best, high = AnswerThreshold(float(values[place]) if place else 0.0, rows), place - 1
        elif _lower_bound(rows, rows, risk) < wanted:  # too few rows to show it, even if all were correct
            high = place - 1
        else:
            low = place
        if low >= high:
            break
        place = (low + high + 1) // 2
    return best


def _lower_bound(hits: int, rows: int, risk: float) -> float:
    """The one-sided Clopper-Pearson lower bound of a share."""
    from scipy.special import betaincinv

    return float(betaincinv(hits, rows - hits + 1, risk)) if hits else 0.0


def auto_curve(
    direct: FloatArray, reasoned: FloatArray, truth: IndexArray, tokens: NDArray[Any], points: int = 20
) -> list[AutoPoint]:
    """The cost and accuracy of `auto` at thresholds from NEVER to ALWAYS: at most `points` + 1 of them, at about equal
    steps of the share of rows that get a reasoning.

    `direct` and `reasoned` are probabilities [seeds, n, labels] without and after a reasoning, `tokens` [seeds, n] the
    lengths of the reasonings. All seeds share the thresholds. Raises ValueError if the shapes do not match."""
    confidence, of_direct, of_reasoned = direct.max(-1), correct(truth, direct), correct(truth, reasoned)
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
    outcomes = [np.where(reasons, of_reasoned, of_direct) for reasons in below]
    return [
        AutoPoint(threshold, float(reasons.mean()), float((tokens * reasons).mean()), share_interval(hits))
        for threshold, reasons, hits in zip(thresholds, below, outcomes, strict=True)
    ]
