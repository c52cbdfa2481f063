"""verification.json: what each engine made of a written folder, and whether the folder passed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rir_convert.verification.comparison import EngineComparison
from rir_mlx.errors import Failure
from rir_mlx.storage.atomic import write_json


def record(
    folder: Path, comparisons: Sequence[EngineComparison], *, faults: Sequence[str] = (), **facts: Any
) -> dict[str, Any]:
    """Write `verification.json` and return its content. `faults` are those of the model card's program.

    Raises Failure if there are any, if an engine found one, or if no engine could compare anything."""
    found = [f"{comparison.engine}: {fault}" for comparison in comparisons for fault in comparison.faults]
    found += [f"the model card's program: {fault}" for fault in faults]
    if all(comparison.not_compared for comparison in comparisons):
        found += [f"{comparison.engine} cannot run it: {comparison.not_compared}" for comparison in comparisons]
        found += [] if comparisons else ["no library that could run it is installed"]
    values = {
        "passed": not found,
        **facts,
        "engines": {comparison.engine: _as_json(comparison) for comparison in comparisons},
    }
    write_json(folder / "verification.json", values)
    if found:
        layers = (comparison.first_difference for comparison in comparisons)
        first = next(filter(None, layers), None)
        where = f" The first layer that differs is {first}." if first else ""
        raise Failure(
            f"{folder} is not the model that was trained: {'; '.join(found)}.{where}",
            hint="Do not use this folder.",
        )
    return values


def comparison_line(comparison: EngineComparison) -> str:
    """A line about a comparison for the terminal."""
    if comparison.not_compared:
        return f"Not compared with {comparison.engine}: {comparison.not_compared}."
    if comparison.max_difference is None:
        return f"Read back: the tensors differ by {comparison.mean_difference:.2g} of their size at most."
    labels = probabilities = ""
    if comparison.label_agreement is not None:
        agreement = 100 * comparison.label_agreement
        labels = f", the likeliest label agrees on {agreement:.1f} % of {comparison.label_rows} rows"
    if comparison.probability_difference is not None:
        probabilities = f" (probabilities within {comparison.probability_difference:.2g})"
    return (
        f"Loaded back with {comparison.engine}: log-probabilities differ by {comparison.mean_difference:.2g} on "
        f"average, {comparison.max_difference:.2g} at most, over {comparison.positions:,} positions of "
        f"{comparison.rows} rows{labels}{probabilities}."
    )


def _as_json(comparison: EngineComparison) -> dict[str, Any]:
    """A comparison for JSON, which has no infinity: a difference that is not finite becomes null."""
    values = asdict(comparison) | {"faults": list(comparison.faults)}
    odd = [key for key, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
    return values | dict.fromkeys(odd)
