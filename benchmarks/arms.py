"""How much each arm learns from the demo's rows, what the share of wrong first labels does to `qarqa`, and what the
speed at which reasonings are dropped does to `curriculum`.

    python -m benchmarks.arms choose RUNS       # validation rows alone
    python -m benchmarks.arms measure RUNS      # test rows, once

The embedded model and data, 100 training rows, 300 validation rows, 600 test rows, three seeds. Writes JSON to stdout,
a line a setting.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.stages import Context, OpenOptions, augment_rows, evaluate, open_run, train_classifier, train_rgen
from rir_mlx.stages.measuring import _ArmMeasurement
from rir_mlx.statistics.intervals import share_interval
from rir_mlx.types import Arm

SIZES = ("data.max_samples=100", "data.val_size=300", "data.test_size=600", "classifier.seeds=[0, 1, 2]")
SHARES = (0.0, 0.25, 0.5, 0.75)
SPANS = ("[0.0, 0.5]", "[0.2, 0.7]", "[0.4, 0.9]")
ARMS: tuple[Arm, ...] = ("qa", "qra", "qar", "qarqa", "curriculum")


def opened(runs: Path, *settings: str) -> Context:
    return open_run(
        "demo",
        OpenOptions(runs=runs, overrides=(*SIZES, "classifier.epochs=4", "name=arms", *settings), backend="torch"),
    )


def on_validation(context: Context, arm: Arm) -> dict[str, Any]:
    """The accuracy of each way of scoring on the validation rows, with its interval over rows and seeds."""
    names = context.task.names
    truth = np.array([names.index(row.label) for row in context.data.validation])
    found: dict[str, list[Any]] = {}
    for seed in context.recipe.classifier.seeds:
        for way, scored in _ArmMeasurement(context, arm, seed).validation_scores().items():
            found.setdefault(way, []).append(scored.scores.argmax(1) == truth)
    return {way: asdict(share_interval(np.stack(hits))) for way, hits in found.items()}


def trained(context: Context, arm: Arm) -> float:
    """Train every seed; returns the seconds."""
    started = time.perf_counter()
    train_classifier(context, arm)
    return round(time.perf_counter() - started, 1)


def choose(runs: Path, arm: Arm, key: str, values: Sequence[Any]) -> None:
    for value in values:
        context = opened(runs, f"classifier.{key}={value}")
        seconds = trained(context, arm)
        print(json.dumps({"arm": arm, key: value, "seconds": seconds} | on_validation(context, arm)), flush=True)


def measure(runs: Path, arms: Sequence[Arm]) -> None:
    context = opened(runs, f"classifier.arms=[{', '.join(arms)}]")
    seconds = {arm: trained(context, arm) for arm in arms}
    comparison = evaluate(context)
    for entry in comparison.entries:
        line: dict[str, Any] = {"arm": entry.name, "seconds": seconds.get(entry.name)}
        line |= {"validation": on_validation(context, entry.name) if entry.name in arms else None}
        line |= {"test": asdict(entry.metrics.accuracy), "seeds": entry.by_seed.accuracy}
        line |= {"cost": entry.cost.model_dump() if entry.cost else None}
        line |= {"changes": entry.changes.model_dump(mode="json") if entry.changes else None}
        print(json.dumps(line), flush=True)


def main() -> None:
    what, runs = sys.argv[1], Path(sys.argv[2])
    context = opened(runs)
    train_rgen(context)
    augment_rows(context)
    if what == "choose":
        choose(runs, "qarqa", "wrong_first", SHARES)
        choose(runs, "curriculum", "curriculum", SPANS)
    else:
        measure(runs, ARMS)


if __name__ == "__main__":
    main()
