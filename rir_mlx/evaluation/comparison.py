"""From what classifiers answered to the evidence: figures, comparisons, and the sentence. Arrays in, plain values out;
knows no model, no run and no file.

Probabilities are [seeds, rows, labels]; truth is [rows] places in the list of labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rir_mlx.classification.classifier import LabelScores
from rir_mlx.statistics import metrics
from rir_mlx.statistics import paired_tests as comparison
from rir_mlx.statistics.calibration import (
    Calibration,
    abstain_threshold,
    auto_curve,
    fit_temperature,
    reason_below,
)
from rir_mlx.types import Way

Floats = NDArray[np.float64]
MEANING = {
    "qa": "label only",
    "qra": "reasoning, then label",
    "qar": "label, then reasoning",
    "multitask": "label or reasoning, by two prompts",
    "qra-scrambled": "control: reasonings of other rows",
    "qra-words": "control: words of the reasoning shuffled",
    "majority": "the most frequent label",
    "tf-idf": "TF-IDF with logistic regression",
    "untuned": "the base model, not trained",
    "encoder": "a fine-tuned encoder",
}
_ENOUGH = 500
"""Validation rows from which a temperature is steady."""
_FEWEST = 20


@dataclass(frozen=True)
class Answers:
    """What one trained classifier made of the validation and test rows, by way of reading: `direct`, `reasoned`,
    `sampled`. `headline` is the way that its figures are of."""

    headline: Way
    validation: Mapping[Way, LabelScores]
    test: Mapping[Way, LabelScores]
    seconds: Mapping[Way, float]
    chains: Sequence[LabelScores] = ()
    faithfulness: Mapping[str, Any] | None = None


class Seeds(Protocol):
    """An arm's answers and their calibrations, by seed."""

    @property
    def answers(self) -> Sequence[Answers]: ...

    @property
    def calibrations(self) -> Sequence[Calibration]: ...


@dataclass(frozen=True)
class Rows:
    """The rows that everything is measured on. `clean` are the test rows that training cannot have seen."""

    labels: Sequence[str]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    clean: NDArray[np.bool_]


@dataclass
class Entry:
    """A line of the comparison: an arm, a control or a baseline, once for each seed."""

    name: str
    kind: str
    probabilities: Floats
    seeds: Sequence[int] = (0,)
    probabilistic: bool = True
    more: dict[str, Any] = field(default_factory=dict)


def calibrate(answers: Answers, rows: Rows, wanted: float | None) -> Calibration:
    """What the validation rows teach: a temperature for each way of reading, the confidence below which a reasoning is
    worth writing, and the one from which answers are right as often as wanted."""
    truth = rows.validation
    if len(truth) < _FEWEST:
        return Calibration(rows=len(truth))
    found = {way: fit_temperature(one.log_probabilities, truth) for way, one in answers.validation.items()}
    calibration = Calibration({**Calibration().temperature, **found}, len(truth))
    chances = {way: calibration.probabilities(one.log_probabilities, way) for way, one in answers.validation.items()}
    right = {way: one.argmax(1) == truth for way, one in chances.items()}
    below = None
    if answers.headline != "direct" and "direct" in chances:
        below = reason_below(chances["direct"].max(1), right["direct"], right[answers.headline])
    answer_from = None
    if wanted is not None:
        answer_from = abstain_threshold(chances[answers.headline].max(1), right[answers.headline], wanted)
    return replace(calibration, reason_below=below, answer_from=answer_from)


def arm_entry(name: str, kind: str, seeds: Sequence[int], found: Seeds, rows: Rows) -> Entry:
    """An arm's line, from its seeds' answers."""
    answers, calibrations, way = found.answers, found.calibrations, found.answers[0].headline
    pairs = list(zip(answers, calibrations, strict=True))
    after = np.stack([c.probabilities(one.test[way].log_probabilities, way) for one, c in pairs])
    before = np.stack([np.exp(one.test[way].log_probabilities) for one in answers])
    validation = [one.validation[way].scores.argmax(1) == rows.validation for one in answers]
    masses = np.concatenate([one.test[way].mass for one in answers])
    more: dict[str, Any] = {
        "validation_accuracy": float(np.mean(validation)) if len(rows.validation) else None,
        "cost": {
            "tokens_written": float(np.mean([one.test[way].tokens for one in answers])),
            "seconds": float(np.mean([one.seconds[way] for one in answers])),
        },
        "mass": {"mean": float(masses.mean())} | _quantiles(masses),
        "faithfulness": answers[0].faithfulness,
        "trimmed": int(np.sum(np.array(answers[0].test[way].trimmed) > 0)),
        "curve": _curve(pairs, rows) if way != "direct" else None,
    }
    if len(rows.validation) >= _FEWEST:
        names = ("log_loss", "brier", "ece")
        figures = [metrics.by_seed(rows.test, each) for each in (before, after)]
        means = [{key: float(np.mean(one[key] or 0.0)) for key in names} for one in figures]
        more["calibration"] = {
            "rows": calibrations[0].rows,
            "temperature": [one.temperature[way] for one in calibrations],
            "reason_below": [one.reason_below for one in calibrations],
            "answer_from": [one.answer_from for one in calibrations],
            "before": means[0],
            "after": means[1],
        }
        more["reliability"] = {
            "before": metrics.reliability(rows.test, before),
            "after": metrics.reliability(rows.test, after),
        }
    return Entry(name, kind, after, list(seeds), more=more)


def _quantiles(values: Floats) -> dict[str, float]:
    return {f"p{percent}": float(np.quantile(values, percent / 100)) for percent in (5, 50)}


def _curve(pairs: Sequence[tuple[Answers, Calibration]], rows: Rows) -> list[dict[str, Any]]:
    """Accuracy against what it costs, means over seeds: no reasoning, reasoning below ever higher confidences and below
    the one that validation chose, always, and the mean of ever more drawn reasonings."""

    def point(reason: str, right: Sequence[NDArray[np.bool_]], tokens: Floats, share: float, samples: int = 1) -> Any:
        accuracy = asdict(metrics.bootstrap_means(np.stack(right).astype(np.float64)[None])[0])
        return {"reason": reason, "samples": samples, "share_reasoned": share, "accuracy": accuracy} | {
            "tokens_written": float(np.mean(tokens))
        }

    def right(way: Way) -> list[NDArray[np.bool_]]:
        return [one.test[way].scores.argmax(1) == rows.test for one, _ in pairs]

    written = np.array([one.test["reasoned"].tokens for one, _ in pairs], dtype=np.float64)
    direct, reasoned = right("direct"), right("reasoned")
    points = [point("never", direct, np.zeros(1), 0.0), point("always", reasoned, written, 1.0)]
    chances = [c.probabilities(one.test["direct"].log_probabilities, "direct") for one, c in pairs]
    if all(c.reason_below is not None for _, c in pairs):
        doubtful = [chance.max(1) < (c.reason_below or 0.0) for chance, (_, c) in zip(chances, pairs, strict=True)]
        mixed = [np.where(d, b, a) for d, a, b in zip(doubtful, direct, reasoned, strict=True)]
        points.append(point("auto", mixed, written * np.array(doubtful), float(np.mean(doubtful))))
    later = [c.probabilities(one.test["reasoned"].log_probabilities, "reasoned") for one, c in pairs]
    swept = auto_curve(np.stack(chances), np.stack(later), rows.test, written)
    points += [{"reason": "auto", "samples": 1, **one} for one in swept]
    most = min(len(one.chains) for one, _ in pairs)
    for samples in sorted({count for count in (2, 4, 8, 16, 32, most) if 1 < count <= most}):
        merged = [LabelScores.averaged(one.chains[:samples]) for one, _ in pairs]
        found = [one.scores.argmax(1) == rows.test for one in merged]
        points.append(point("always", found, np.array([one.tokens for one in merged], float), 1.0, samples))
    return points


def described(entry: Entry, rows: Rows) -> dict[str, Any]:
    """An entry's line with all its figures."""
    truth, chances, proper = rows.test, entry.probabilities, entry.probabilistic

    def figures(keep: NDArray[np.bool_]) -> dict[str, Any]:
        found = metrics.figures(truth[keep], chances[:, keep], probabilistic=proper)
        return {key: None if one is None else asdict(one) for key, one in found.items()}

    everything = np.ones(len(truth), dtype=bool)
    return {
        "name": entry.name,
        "kind": entry.kind,
        "what": MEANING[entry.name],
        "seeds": list(entry.seeds),
        "figures": figures(everything),
        "by_seed": metrics.by_seed(truth, chances, probabilistic=proper),
        "cleaned": figures(rows.clean) if 0 < rows.clean.sum() < len(truth) else None,
        "against": None,
        "beats": [],
        "per_class": metrics.per_class(truth, chances, rows.labels),
        "confusion": metrics.confusion(truth, chances),
        "risk_coverage": metrics.risk_coverage(truth, chances) if proper else None,
        **entry.more,
    }


def compared(entries: Sequence[Entry], rows: Rows) -> tuple[list[dict[str, Any]], dict[str, comparison.Comparison]]:
    """Every entry's line: arms against label-only, and which baselines they beat. Also the comparisons with label-only
    by name."""
    lines = {entry.name: described(entry, rows) for entry in entries}
    label_only = next((entry for entry in entries if entry.name == "qa"), None)
    found: dict[str, comparison.Comparison] = {}
    for entry in entries:
        line, own = lines[entry.name], (entry.name, entry.probabilities)
        if label_only is not None and entry is not label_only:
            found[entry.name] = comparison.compare(("qa", label_only.probabilities), own, rows.test)
            line["against"] = asdict(found[entry.name])
        if entry.kind == "baseline":
            continue
        for other in entries:
            if other.kind == "baseline":
                paired = comparison.compare((other.name, other.probabilities), own, rows.test)
                line["beats"] += [other.name] if comparison.beats(paired) else []
    return list(lines.values()), found


def doubt(entries: Sequence[Entry], best: str, rows: Rows) -> str:
    """What to add where reasoning helped: whether a control, whose reasonings say nothing of their row or nothing in
    order, does as well as the arm (arXiv:2406.14511)."""
    arm = next(entry for entry in entries if entry.name == best)
    pairs = (
        (one, comparison.compare((one.name, one.probabilities), (best, arm.probabilities), rows.test))
        for one in entries
        if one.kind == "control"
    )
    equal = [one.name for one, paired in pairs if not comparison.beats(paired)]
    if not equal:
        return ""
    return (
        f" But {best} is not shown to be better than {' and '.join(equal)}, which learned from other rows' reasonings "
        "or from shuffled words."
    )


def chosen(entries: Sequence[Entry]) -> str | None:
    """The reasoning arm that is best on the validation rows; of equals the first. Never by the test rows."""
    arms = [one for one in entries if one.kind == "arm" and one.name != "qa"]
    if not arms:
        return None
    return max(arms, key=lambda one: one.more["validation_accuracy"] or 0.0).name


def warnings(entries: Sequence[Entry], rows: Rows) -> list[str]:
    found = []
    if not len(rows.validation) and (first := chosen(entries)):
        found.append(f"Without validation rows no arm could be chosen: {first} is the first of the recipe's.")
    if len(rows.validation) < _FEWEST:
        found.append(
            f"{len(rows.validation)} validation rows are too few to calibrate: probabilities are the model's own."
        )
    elif len(rows.validation) < _ENOUGH:
        found.append(
            f"Temperatures and thresholds rest on {len(rows.validation):,} validation rows; with fewer than {_ENOUGH} "
            "they are rough."
        )
    for entry in entries:
        if cut := entry.more.get("trimmed"):
            found.append(f"{entry.name}: {cut:,} test texts were cut at their end to fit into max_seq_length.")
    return found
