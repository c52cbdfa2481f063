"""Signs of a training that ended too early, overfitted, or depends on its seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rir_mlx.evaluation.judgement.learning import Change, accuracy_kept_up, overfitted, still_falling, unstable


def trained(*losses: float, every: int = 10) -> list[dict[str, Any]]:
    return [{"step": every * place, "loss": loss} for place, loss in enumerate(losses, start=1)]


def validated(*losses: float, accuracies: tuple[float, ...] = ()) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {"step": 100 * place, "loss": 0.1, "validation_loss": loss} for place, loss in enumerate(losses, start=1)
    ]
    for line, accuracy in zip(lines, accuracies, strict=False):
        line["validation_accuracy"] = accuracy
    return lines


@pytest.mark.parametrize(
    ("lines", "falling"),
    [
        (trained(1.6, 1.5, 1.4, 1.2, 1.0), True),  # 50 steps, and no end of the fall
        (trained(1.6, 0.9, 0.5, 0.5, 0.5, 0.49, 0.5, 0.49), False),
        (trained(0.10, 0.06, 0.05, 0.045, 0.04, 0.03), False),  # by a third, but there is nothing left to learn
        (trained(2.0, 0.4, 0.2, 0.05), False),
        (trained(12.54, 11.30), True),  # 18 steps in all
        ([{"step": 10, "loss": 2.0}, {"step": 12, "loss": 1.0}], True),  # both in the last quarter: an IndexError
        (trained(1.0), False),
        ([], False),
        (validated(1.2, 1.0, 0.8, 0.6), True),
        (validated(1.2, 0.6, 0.59, 0.59), False),
        (validated(0.9, 0.5, 0.6, 0.7), False),
        (validated(0.629, 0.529), True),
    ],
)
def test_a_loss_that_still_fell_at_the_end_is_recognised(lines: list[dict[str, Any]], falling: bool) -> None:
    assert (still_falling(lines) is not None) == falling


def test_the_change_says_from_where_to_where() -> None:
    assert still_falling(validated(1.2, 1.0, 0.8, 0.6)) == Change("validation loss", 0.8, 0.6, 300, 400)
    found = still_falling([*trained(2.0, 1.8, 1.6, 1.4, 1.2), {"step": 52, "loss": 0.2}])
    assert found is not None
    # The last line covers two of the last 22 steps: (1.4 * 10 + 1.2 * 10 + 0.2 * 2) / 22.
    assert (found.what, found.last_step, found.last) == ("training loss", 52, pytest.approx(1.2))


def test_a_validation_loss_that_rose_is_overfitting_and_its_accuracy_tells_which_kind() -> None:
    lines = validated(0.9, 0.5, 0.7, 0.8, accuracies=(0.6, 0.8, 0.78, 0.75))
    change = overfitted(lines)
    assert change == Change("validation loss", 0.5, 0.8, 200, 400)
    assert not accuracy_kept_up(lines, change)
    sure = validated(0.9, 0.5, 0.7, 0.8, accuracies=(0.6, 0.8, 0.81, 0.82))
    assert accuracy_kept_up(sure, change)
    assert not accuracy_kept_up(validated(0.9, 0.5, 0.7, 0.8), change)
    assert overfitted(validated(0.9, 0.5, 0.51)) is None
    assert overfitted(validated(0.9)) is None
    assert overfitted(trained(0.5, 0.9)) is None


def seeds_at(*accuracies: float, rows: int = 500, alike: float = 0.7) -> np.ndarray:
    """[seeds, rows] right answers at these rates, on rows of which some are hard for all seeds."""
    rng = np.random.default_rng(0)
    luck = alike * rng.random(rows) + (1 - alike) * rng.random((len(accuracies), rows))
    thresholds = np.quantile(luck, accuracies)
    return (luck < np.reshape(thresholds, (-1, 1))).astype(float)


def test_seeds_that_end_far_apart_are_unstable() -> None:
    """TREC: two seeds of qra differed by 12 points on 500 rows."""
    found = unstable(seeds_at(0.72, 0.84))
    assert found is not None
    assert found.points == pytest.approx(12, abs=2.5)
    assert unstable(seeds_at(0.80, 0.82, 0.81)) is None
    assert unstable(seeds_at(0.72)) is None


def test_few_rows_do_not_make_seeds_unstable() -> None:
    """200 triples of equal classifiers on 60 rows: in most of them the seeds differ by 5 points and more."""
    rng = np.random.default_rng(1)
    apart, called = 0, 0
    for _ in range(200):
        hits = (rng.random((3, 60)) < 0.8).astype(float)
        apart += np.ptp(hits.mean(1)) >= 0.05
        called += unstable(hits) is not None
    assert apart > 100
    assert called <= 7  # at a rate of 1 %, more come once in 1,000 such tests
