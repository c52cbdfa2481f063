"""A server that tests share, and a run with 77 labels and 20,000 rows to be served."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from comparisons import a_comparison
from review_runs import TABLE, large_table, make_run, write_results

from rir_mlx.data.loading import load_labelled
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import Recipe
from rir_mlx.storage.atomic import write_json
from rir_mlx.storage.layout import RunDir

MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
MANY = (*(f"label {number:02}" for number in range(76)), "<img src=x onerror=alert(1)>")
ROWS = 20_000


@pytest.fixture(scope="session")
def address(codec: Codec) -> Iterator[str]:
    """Where a classifier with three labels is served, to everybody on this machine."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from served_models import fake_classifier, serving

    with serving(fake_classifier(codec)) as (address, _):
        yield address


def _make_large_run(folder: Path) -> None:
    """Rows of which two have the same text and other labels, two are copies, and one looks like markup."""
    from rir_mlx.evaluation.report.page import write_report
    from rir_mlx.evaluation.schema import Comparison

    special = [(MARKUP, MANY[-1]), ("same words", "label 01"), ("Same  words", "label 02"), *[("copy", "label 03")] * 2]
    table = large_table(ROWS, MANY, special)
    run, recipe = make_run(folder, table, max_samples=None, val_size=77, test_size=231)
    data, draws, shares = load_labelled(recipe.data, recipe.seed), random.Random(0), dict[str, dict[str, float]]()
    for place, row in enumerate((*data.test, *data.validation)):
        favoured = row.label if place % 5 else draws.choice(MANY)
        weights = {label: draws.random() for label in MANY}
        weights[favoured] += 10 + place
        shares[row.id] = {label: weight / sum(weights.values()) for label, weight in weights.items()}
    write_results(run, data, shares)
    write_json(run.classifier("qa").record, {"inputs": {}, "results": {}})
    write_report(run.report, Comparison.model_validate(a_comparison()))


@pytest.fixture(scope="session")
def large_run() -> tuple[RunDir, Recipe]:
    """A trained and measured run, but for its models. Its review.jsonl is a test's to delete."""
    folder = processes.made_once("large run", _make_large_run)
    run = RunDir(folder / "runs/small")
    return run, run.recipe()


@pytest.fixture
def small(tmp_path: Path) -> tuple[RunDir, Recipe]:
    """A run to review, with a report."""
    run, recipe = make_run(tmp_path, TABLE + f'"{MARKUP}",joy,0\n')
    write_results(run, load_labelled(recipe.data, recipe.seed), {})
    run.report.write_text(f"<h1>Report</h1>{MARKUP}", encoding="utf-8")
    return run, recipe
