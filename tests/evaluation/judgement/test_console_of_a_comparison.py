"""What the terminal says below the table of a comparison: nothing that few seeds, or a p-value alone, do not show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from comparisons import a_comparison
from rir_cli.console import print_comparison

from rir_mlx.evaluation.schema import Changes, Comparison, Outcome
from rir_mlx.statistics.intervals import Interval
from rir_mlx.statistics.paired_tests import compare

ROWS = 400


def changes(*right: tuple[int, int]) -> Changes:
    """Of seeds with so many right first labels and right second ones; a right label is right both times if it can."""
    first, second = (np.arange(ROWS) < np.reshape(counts, (-1, 1)) for counts in zip(*right, strict=True))
    labels = [("qarqa first", first), ("qarqa", second)]
    found = compare(*[(name, np.eye(2)[np.where(hits, 0, 1)]) for name, hits in labels], np.zeros(ROWS, dtype=int))
    none = Outcome(rows=0, share=Interval(0, 0, 0))
    rows = [int((hits & ~others).sum()) for hits, others in ((second, first), (first, second))]
    corrected, spoiled = (Outcome(rows=count, share=Interval(0, 0, 0)) for count in rows)
    return Changes(
        first_accuracy=Interval(0, 0, 0),
        corrected=corrected,
        spoiled=spoiled,
        kept_right=none,
        kept_wrong=none,
        wrong_otherwise=none,
        against_first=found,
    )


def printed(capsys: pytest.CaptureFixture[str], seeds: list[int], **fields: Any) -> str:
    values = a_comparison()
    arm = next(found for found in values["entries"] if found["kind"] == "arm" and found["name"] != "qa")
    arm.update(seeds=seeds, beats=["tf-idf"], **fields)
    print_comparison(Comparison.model_validate(values))
    return capsys.readouterr().out


def test_what_a_reasoning_changed_is_told_for_each_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds pointed opposite ways, and `p: < 0.001, < 0.001` was all that was said."""
    found = changes((100, 150), (150, 100)).model_dump(mode="json")
    assert (
        "the reasoning corrected 50 first labels and spoiled 50 over 2 seeds (McNemar's test of corrected against "
        "spoiled: seed 0: 50 against 0, p < 0.001; seed 4: 0 against 50, p < 0.001)."
    ) in printed(capsys, [0, 4], changes=found)
    found = changes((100, 104)).model_dump(mode="json")
    assert "corrected 4 first labels and spoiled 0 (McNemar's test: p = 0.125)." in printed(capsys, [0], changes=found)


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([0], "This {} classifier beats tf-idf."),
        ([0, 1], "These 2 {} classifiers beat tf-idf."),
        ([0, 1, 2], "{} beats tf-idf."),
    ],
)
def test_with_few_seeds_it_is_these_classifiers_that_beat_a_baseline(
    capsys: pytest.CaptureFixture[str], seeds: list[int], said: str
) -> None:
    name = next(
        found["name"] for found in a_comparison()["entries"] if found["kind"] == "arm" and found["name"] != "qa"
    )
    assert said.format(name) in printed(capsys, seeds).splitlines()
