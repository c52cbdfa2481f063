"""What the statistics count, and what they warn about."""

from __future__ import annotations

import json
from typing import Any

from rir_mlx.augmentation.job import AugmentedRow, Candidate
from rir_mlx.augmentation.model_output import MOST_TOKENS
from rir_mlx.augmentation.summary import AugmentationSummary
from rir_mlx.data.rows import Row


def test_a_summary_counts_rows_reasons_and_labels() -> None:
    def outcome(
        label: str, *rejected: str, attempt: int | None = 0, tokens: int = 10, margin: float | None = None
    ) -> Any:
        record: dict[str, Any] = {"tokens": tokens, "provenance": {"attempt": attempt}}
        record |= {} if margin is None else {"choice": {"margin": margin, "tied": margin == 0}}
        lost = [Candidate("0", 0, at, "x", 3, why) for at, why in enumerate(rejected)]
        return AugmentedRow(Row("t", label), None if attempt is None else record, lost)

    summary = AugmentationSummary()
    for row in (
        outcome("joy", tokens=10),
        outcome("joy", "empty", attempt=1, tokens=20, margin=0.5),
        outcome("joy", "cut off", "empty", attempt=None),
        outcome("anger", "empty", attempt=None),
        outcome("joy", tokens=30, margin=0.0),
    ):
        summary.add(row)
    values = summary.values()
    assert values["rows"] == 5
    assert values["kept"] == 3
    assert values["rejected"] == {"empty": 3, "cut off": 1}
    assert values["rows_by_label"] == {"anger": 1, "joy": 4}
    assert values["kept_by_label"] == {"anger": 0.0, "joy": 0.75}
    assert values["kept_by_attempt"] == {"0": 2, "1": 1}
    assert values["tokens"] == 60 + 4 * 3
    assert values["lengths"] == {"mean": 20, "p5": 11, "p50": 20, "p95": 29, "max": 30}
    assert values["chosen"] == {"rows": 2, "tied": 1, "mean_margin": 0.25, "median_margin": 0.25}
    [warning] = summary.warnings()
    assert "'anger' 0 have" in warning
    json.dumps(values)


def test_tokens_count_what_was_generated_and_not_the_users_own_reasonings() -> None:
    summary = AugmentationSummary()
    record: dict[str, Any] = {"tokens": 10, "provenance": {}}
    summary.add(AugmentedRow(Row("t", "joy", "why"), record, []))
    summary.add(AugmentedRow(Row("t", "joy"), record, []))
    values = summary.values()
    assert (values["given"], values["tokens"], values["lengths"]["mean"]) == (1, 10, 10)


def test_a_journal_with_an_impossible_count_of_tokens_is_summarised() -> None:
    """A server's count was put into the journal as it came, and each rerun ended in an OverflowError."""
    summary = AugmentationSummary()
    lost = [Candidate("0", 0, 0, "x", 10**40, "empty")]
    summary.add(AugmentedRow(Row("t", "joy"), {"tokens": 10**40, "provenance": {}}, lost))
    values = summary.values()
    assert values["lengths"]["max"] == MOST_TOKENS
    assert values["tokens"] == 2 * MOST_TOKENS


def test_a_summary_of_nothing() -> None:
    values = AugmentationSummary().values()
    assert values["rows"] == values["kept"] == values["tokens"] == 0
    assert values["lengths"] == {}
    assert AugmentationSummary().warnings() == []


def test_a_row_with_several_labels_counts_for_each_and_once_in_all() -> None:
    summary = AugmentationSummary(lambda label: label.split(", "))
    record: dict[str, Any] = {"tokens": 10, "provenance": {}}
    summary.add(AugmentedRow(Row("t", "billing, refund"), record, []))
    summary.add(AugmentedRow(Row("u", "refund"), None, [Candidate("0", 0, 0, "x", 3, "empty")]))
    values = summary.values()
    assert (values["rows"], values["kept"]) == (2, 1)
    assert values["rows_by_label"] == {"billing": 1, "refund": 2}
    assert values["kept_by_label"] == {"billing": 1.0, "refund": 0.5}
    assert values["rejected_by_label"] == {"refund": {"empty": 1}}
