"""Whether a written folder is the model that was trained: it is loaded back by each engine and asked the same.

The reference is the adapter model in float32. A folder passes where its answers are as near to the reference's as the
rounding of its number format explains, and much nearer than those of the base without the adapter: else an adapter
that is lost, or whose change the rounding swallows, would pass for small differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from rir_convert.verification.probe import ProbeAnswers, mean_difference, where_told
from rir_mlx.backends.base import Float32Array
from rir_mlx.errors import OutOfMemory, RirError, UserError


@dataclass(frozen=True)
class Bounds:
    """How far a folder may be from the adapter model.

    mean         mean over positions of the largest difference of a log-probability
    probability  largest difference of a label's probability
    agreement    smallest share of rows with the same likeliest label, near ties aside
    """

    mean: float
    probability: float
    agreement: float = 0.95


BOUNDS = {
    "float32": Bounds(1e-3, 1e-3, 1.0),
    "float16": Bounds(0.05, 0.05),
    "bfloat16": Bounds(0.3, 0.15),
    "q8_0": Bounds(1.2, 0.15),
    "8 bits": Bounds(1.2, 0.15),
    "4 bits": Bounds(math.inf, 1.0, 0.8),
}
"""By number format. In float32 only the order of sums differs; 16 bits round every weight once, bfloat16 to an eighth
of float16's steps; 8 bits in groups of 32 or 64 are three to five times as coarse as bfloat16. A mean is about five
times what random weights of Llama-3.2-1B's shape gave: trained ones, not measured yet, may have larger logits. 4 bits
are another model, whose cost is measured and said."""
_TIE = 0.15
"""Two labels that the reference finds as near as this may change places, or less where a format allows less."""
_SAME_EMBEDDING = 2e-5
"""Embeddings with the same factor differ by float32's rounding alone; √640 rounded to bfloat16 is 2e-3 off."""
_CLOSER = 0.5
"""A folder must be nearer to the adapter model than this share of the way from there to the base."""


@dataclass(frozen=True)
class EngineComparison:
    """An engine's answers beside the reference's. Differences are absolute.

    forward       what was run, for people
    label_rows    rows whose labels were scored
    not_compared  why the engine says nothing of this folder; None if it was asked
    """

    engine: str
    rows: int = 0
    positions: int = 0
    max_difference: float | None = None
    mean_difference: float | None = None
    same_choice: float | None = None
    label_rows: int = 0
    label_agreement: float | None = None
    probability_difference: float | None = None
    first_difference: str | None = None
    faults: tuple[str, ...] = ()
    forward: str | None = None
    not_compared: str | None = None


@dataclass(frozen=True)
class Tolerance:
    """How far a folder may be from the adapter model: within the bounds of its number format (a key of `BOUNDS`), and
    less than half of the adapter's own `effect`: the distance between adapter model and base by `mean_difference`."""

    number_format: str
    effect: float


def compare_answers(
    name: str,
    reference: ProbeAnswers,
    answers: ProbeAnswers,
    tolerance: Tolerance,
    faults: Sequence[str] = (),
) -> EngineComparison:
    """Judge an engine's answers. `faults` were found elsewhere and are passed on. Where one side rounds the embedding's
    factor to bfloat16 and the other does not, the bounds are those of bfloat16."""
    if answers.partial:
        answers = _completed(reference, answers)
    kind, effect = tolerance.number_format, tolerance.effect
    if kind in ("float32", "float16") and rounds_embedding_factor(reference, answers):
        kind = "bfloat16"
    bounds, found = BOUNDS[kind], list(faults)
    differences, same = _per_position(reference, answers)
    mean, worst = float(differences.mean()), float(differences.max())
    if not np.isfinite(worst) or mean > bounds.mean:
        found.append(f"log-probabilities differ by {mean:.3g} on average ({bounds.mean:g} is allowed for {kind})")
    distance = mean_difference(reference.rows, answers.rows)
    if np.isfinite(bounds.mean) and distance > _CLOSER * effect:
        found.append(
            f"its answers differ by {distance:.3g} from the trained model's, which differ by only {effect:.3g} from "
            f"the base's: the adapter is missing, or its change is too small for {kind}"
        )
    agreement = difference = None
    scored = 0
    if reference.scores is not None and answers.scores is not None:
        ours, theirs = _asked(reference.scores, answers)
        scored = len(theirs)
        agreement, difference, settled = _labels(ours, theirs, near_tie(kind))
        if not difference <= bounds.probability:
            found.append(f"a label's probability differs by {difference:.3g} ({bounds.probability:g} is allowed)")
        if settled < bounds.agreement:
            found.append(
                f"the likeliest label agrees on {100 * settled:.1f} % of rows "
                f"(at least {100 * bounds.agreement:.0f} % is required)"
            )
    first = first_different_layer(reference.layers, answers.layers, kind)
    if first not in (None, _AFTER_LAYERS) and np.isfinite(bounds.mean):
        found.append(f"the output of {first} differs by more than {kind} explains")
    return EngineComparison(
        engine=name,
        rows=len(answers.rows),
        positions=len(differences),
        max_difference=worst,
        mean_difference=mean,
        same_choice=same,
        label_rows=scored,
        label_agreement=agreement,
        probability_difference=difference,
        first_difference=first if found else None,
        faults=tuple(found),
    )


def _completed(reference: ProbeAnswers, answers: ProbeAnswers) -> ProbeAnswers:
    """The answers of an engine that tells the likeliest tokens alone: for all others it counts as agreeing."""
    long = answers.long
    if long is not None and reference.long is not None:
        [long] = where_told([reference.long], [long])
    return replace(answers, rows=where_told(reference.rows, answers.rows), long=long)


def rounds_embedding_factor(reference: ProbeAnswers, answers: ProbeAnswers) -> bool:
    """Whether the embeddings differ by nothing but √width rounded to bfloat16, as mlx-lm rounds it for Gemma 3 in any
    dtype and transformers in float32 does not: then the two libraries themselves compute slightly different models."""
    if not reference.layers or not answers.layers or reference.layers[0].shape != answers.layers[0].shape:
        return False
    ours, theirs = reference.layers[0], answers.layers[0]
    exact = math.sqrt(ours.shape[-1])
    ratio = float(np.float32(exact).astype(ml_dtypes.bfloat16)) / exact
    return ratio != 1 and any(
        np.linalg.norm(a * ratio - b) <= _SAME_EMBEDDING * np.linalg.norm(b)
        for a, b in ((ours, theirs), (theirs, ours))
    )


CANNOT_RUN = (UserError, OutOfMemory, RuntimeError, ValueError, TypeError, IndexError, MemoryError)
"""What an engine raises for a folder that it cannot load or run: the errors of ours that it reports, and what libraries
raise while they compute. A full GPU is a RuntimeError."""


def unusable(engine: str, error: BaseException, faults: Sequence[str] = ()) -> EngineComparison:
    """A folder that an engine cannot load or run. `faults` were found elsewhere and are passed on."""
    said = error.what if isinstance(error, RirError) else next(iter(str(error).splitlines()), type(error).__name__)
    found = (*faults, f"it cannot be loaded or run: {said.rstrip('.')}")
    nothing = float("inf")
    return EngineComparison(engine, max_difference=nothing, mean_difference=nothing, same_choice=0.0, faults=found)


def near_tie(number_format: str) -> float:
    """By how much two labels' probabilities may differ in the reference and the two still change places."""
    return min(BOUNDS[number_format].probability, _TIE)


def _per_position(reference: ProbeAnswers, answers: ProbeAnswers) -> tuple[NDArray[np.float64], float]:
    """The largest difference at each position, and the share of positions with the same likeliest token."""
    pairs = list(zip(reference.rows, answers.rows, strict=False))
    if reference.long is not None and answers.long is not None:
        pairs.append((reference.long, answers.long))
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        return np.array([np.inf]), 0.0
    differences = [np.abs(ours - theirs).max(-1) for ours, theirs in pairs]
    same = [ours.argmax(-1) == theirs.argmax(-1) for ours, theirs in pairs]
    return np.concatenate(differences).astype(np.float64), float(np.concatenate(same).mean())


def _asked(ours: NDArray[np.float64], answers: ProbeAnswers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sides' scores of the rows that the engine was asked for, with -inf for labels that it was not asked for."""
    theirs = answers.scores
    assert theirs is not None
    asked = np.ones(theirs.shape, dtype=np.bool_) if answers.asked is None else answers.asked
    rows = asked.any(axis=1)
    left, right = (np.where(asked, scores[: len(asked)], -np.inf)[rows] for scores in (ours, theirs))
    return left, right


def _labels(ours: NDArray[np.float64], theirs: NDArray[np.float64], tie: float) -> tuple[float, float, float]:
    """Share of rows with the same label, the largest difference of a probability, and the share where rows count too
    whose two labels the reference finds as likely as each other, up to `tie`."""
    ours, theirs = softmax(ours, axis=1), softmax(theirs, axis=1)
    best, chosen, rows = ours.argmax(1), theirs.argmax(1), np.arange(len(theirs))
    close = ours[rows, best] - ours[rows, chosen] <= tie
    same = best == chosen
    difference = np.abs(ours - theirs).max()
    return float(same.mean()), float(difference), float((same | close).mean())


_LAYER_BOUNDS = {"float32": 1e-3, "float16": 5e-3, "bfloat16": 3e-2, "q8_0": 0.2, "8 bits": 0.2, "4 bits": 0.5}
"""In a deep model one wrong matrix of a single layer may change the answers by less than rounding all of them does; its
own output tells."""
_AFTER_LAYERS = "model.norm or lm_head"


def first_different_layer(ours: Sequence[Float32Array], theirs: Sequence[Float32Array], kind: str) -> str | None:
    """The name of the first layer whose output differs by more than rounding, relative to its size; `model.norm or
    lm_head` where none does. None if an engine does not show them."""
    if not ours or not theirs:
        return None
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        off = np.inf if a.shape != b.shape else np.linalg.norm(a - b) / np.linalg.norm(a)
        if not off <= _LAYER_BOUNDS[kind]:
            return "model.embed_tokens" if number == 0 else f"model.layers.{number - 1}"
    return _AFTER_LAYERS
