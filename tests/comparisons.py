"""The content of a comparison.json and paired examples, for tests of what is made from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rir_mlx.evaluation.entries import DESCRIPTIONS
from rir_mlx.evaluation.report.examples import Answer, Example

EMOTIONS = ("sadness", "joy", "love", "anger", "fear", "surprise")
EVIL = ("<script>alert(1)</script>", "</script>", "\" onload='x'", "a&b", "{{ 7 * 7 }}", "$\\frac{")


def measured(value: float, width: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


def metrics_of(accuracy: float, *, probabilities: bool = True) -> dict[str, Any]:
    values: dict[str, Any] = {name: measured(accuracy) for name in ("accuracy", "balanced_accuracy", "macro_f1", "mcc")}
    return values | {
        name: measured(0.1) if probabilities else None for name in ("log_loss", "brier", "calibration_error")
    }


def an_entry(name: str, kind: str, accuracy: float, labels: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """An arm with everything in it; baselines and their gaps are made from it."""
    size = len(labels)
    counts = [[40 if row == column else (row * 7 + column * 3) % 5 for column in range(size)] for row in range(size)]
    bins = [
        {"low": at / 5, "high": at / 5 + 0.2, "confidence": at / 5 + 0.1, "accuracy": at / 5, "count": 9 * at}
        for at in range(5)
    ]
    values: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "description": DESCRIPTIONS.get(name, f"what {name} is"),
        "seeds": [0, 1, 2],
        "metrics": metrics_of(accuracy),
        "by_seed": {"accuracy": [accuracy - 0.004, accuracy, accuracy + 0.004]},
        "cleaned": metrics_of(accuracy + 0.01),
        "against": {
            "first": "qa",
            "second": name,
            "rows": 2000,
            "difference": measured(-0.0153),
            "by_seed": [{"difference": 0.01, "gained": 61, "lost": 41, "p_value": 0.0479}] * 3,
        },
        "beats": ["majority"],
        "validation_accuracy": 0.9345,
        "training": {"steps": 1875, "tokens": 4812332, "rows": 16000, "seconds": 5412.0},
        "cost": {"tokens_generated": 41.27, "seconds": 0.0831},
        "calibration": {
            "rows": 1000,
            "temperature": [1.31, 1.28, 1.4],
            "before": {"log_loss": 0.311, "brier": 0.141, "calibration_error": 0.051},
            "after": {"log_loss": 0.281, "brier": 0.134, "calibration_error": 0.018},
            "wanted": 0.95,
            "answered": [
                {
                    "mode": "direct",
                    "threshold": 0.912,
                    "validation_rows": 612,
                    "share": 0.587,
                    "accuracy": measured(0.961),
                },
                {"mode": "auto", "threshold": 2.0, "validation_rows": 0, "share": 0.0},
            ],
        },
        "per_class": [
            {"label": label, "precision": 0.9, "recall": 0.8, "f1": 0.847, "support": 300} for label in labels
        ],
        "confusion": counts,
        "reliability": {"before": bins, "after": bins},
        "risk_coverage": [{"coverage": at / 200, "accuracy": 1 - at / 2000, "threshold": 0.5} for at in range(1, 201)],
        "cost_curve": [
            {
                "reason": "never",
                "samples": 1,
                "share_reasoned": 0.0,
                "accuracy": measured(0.9),
                "tokens_generated": 2.1,
            },
            {
                "reason": "always",
                "samples": 5,
                "share_reasoned": 1.0,
                "accuracy": measured(0.93),
                "tokens_generated": 88,
            },
        ],
        "faithfulness": {
            "rows": 500,
            "swapped": {"flips": 0.412, "accuracy": 0.561},
            "corrupted": {"flips": 0.087, "accuracy": 0.882},
        },
        "label_mass": {"mean": 0.998, "p5": 0.991, "p50": 0.999},
    }
    return values | more


def a_comparison(labels: tuple[str, ...] = EMOTIONS) -> dict[str, Any]:
    none = (
        "cleaned",
        "against",
        "training",
        "calibration",
        "cost_curve",
        "faithfulness",
        "label_mass",
        "validation_accuracy",
    )
    one_seed = {"seeds": [0], "by_seed": {"accuracy": [0.5]}, "beats": []}
    gaps: dict[str, Any] = {**dict.fromkeys(none), **one_seed}
    bare = dict.fromkeys(("reliability", "risk_coverage", "cost"))
    part = {
        "rows": 16000,
        "kept": 14880,
        "given": 0,
        "trimmed": 3,
        "rejected": {"copying": 641, "cut off": 208},
        "rows_by_label": dict.fromkeys(labels, 2666),
        "kept_by_label": dict.fromkeys(labels, 0.9311),
        "kept_by_attempt": {"0": 14000, "1": 880},
        "tokens": 704000,
        "lengths": {"mean": 42.0, "p5": 21.0, "p50": 40.0, "p95": 71.0, "max": 96},
    }
    leakage = {
        "rows": 14880,
        "sampled": 3000,
        "majority": 0.335,
        "label_from_reasoning": measured(0.912),
        "without_label_words": None,
        "names_its_label": 0.873,
        "first_named_at": [0.2, 0.4, 0.8],
    }
    return {
        "version": 3,
        "run": {
            "name": "emotion",
            "command": "rir-mlx evaluate emotion",
            "finished": "2026-05-11T14:03:22+0200",
            "versions": {"rir-mlx": "0.2.0", "python": "3.11.9"},
            "backend": "mlx",
            "device": "Apple M3",
            "seed": 0,
            "seeds": [0, 1, 2],
            "model": {"name": "org/model", "revision": "8d3f0c5a", "fingerprint": "5c1e0a2b"},
            "data": {"digest": "a1b2c3d4", "train": "9f86d081", "validation": "60303ae2", "test": "fd61a03a"},
            "recipe": "name: emotion\nclassifier:\n  arms: [qa, qar]\n",
        },
        "labels": list(labels),
        "rows": {"train": 16000, "validation": 2000, "test": 2000, "cleaned": 1934, "leaked": 66},
        "headline": {"text": "Reasoning helped: qar is 1.5 points better than qa.", "finding": "helped"},
        "verdict": "Reasoning raised accuracy by 1.5 points.",
        "chosen": "qar",
        "recommended": "qar",
        "recommendation": "Use qar.",
        "warnings": ["66 test rows are near copies."],
        "entries": [
            an_entry("qa", "arm", 0.91, labels, against=None, cost_curve=None, faithfulness=None),
            an_entry("qar", "arm", 0.925, labels),
            an_entry("qra-scrambled", "control", 0.86, labels),
            an_entry(
                "majority", "baseline", 0.35, labels, **gaps, **bare, metrics=metrics_of(0.35, probabilities=False)
            ),
            an_entry("tf-idf", "baseline", 0.88, labels, **gaps),
        ],
        "learning_curve": {
            "arm": "qa",
            "seed": 0,
            "points": [{"rows": rows, "accuracy": measured(0.8 + rows / 200_000)} for rows in (4000, 8000, 16000)],
            "gain": measured(0.04),
            "text": "More labels are likely to help.",
        },
        "augmentation": {"train": part, "validation": part, "leakage": leakage},
    }


def an_example(outcome: str = "won", probability: float = 0.9, **changes: Any) -> Example:
    """A row that `qa` and `qar` classify with this outcome of `qar` against `qa`."""
    right = {"won": (False, True), "lost": (True, False), "both wrong": (False, False), "both right": (True, True)}
    first, second = ("joy" if correct else "sadness" for correct in right[outcome])
    answers = {"qa": Answer(first, 0.5), "qar": Answer(second, probability, "Feeling great is joy.")}
    return replace(Example("i feel great", "joy", answers), **changes)
