from __future__ import annotations

from dataclasses import replace

import numpy as np
from measured_arms import LABELS, truth

from rir_mlx.classification.scores import LabelScores
from rir_mlx.evaluation.cleaning import copies, copies_note, row_faults
from rir_mlx.evaluation.entries import arm_predictions
from rir_mlx.evaluation.scores import ClassifierScores, EvaluationRows, MeasuredArm, calibrate
from rir_mlx.statistics.calibration import NO_ANSWER, AnswerThreshold


def test_rows_that_stand_in_train_or_contradict_each_other_are_left_out() -> None:
    found = row_faults(
        ["I feel Great", "so sad"],
        ["i  feel great", "fine", "odd", "ODD", "twice", "Twice ", "so sad!"],
        ["joy", "joy", "joy", "anger", "fear", "fear", "sadness"],
    )
    assert found.leaked.tolist() == [True, False, False, False, False, False, False]
    assert found.conflicting.tolist() == [False, False, True, True, False, False, False]
    assert found.clean.tolist() == [False, True, False, False, True, True, True]
    assert row_faults([], [], []).clean.tolist() == []


def drawn(count: int, memorised: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows a classifier is right about, and its confidence: the memorised ones are sure and right."""
    rng = np.random.default_rng(3)
    confidence = 1 - rng.beta(1, 9, count)
    right = rng.random(count) < confidence
    confidence[:memorised], right[:memorised] = 1 - rng.beta(1, 60, memorised), True
    return right, confidence


def test_memorised_validation_rows_decide_nothing() -> None:
    """With half of 500 validation rows copied from the training rows, the fitted threshold missed 92 % on other rows in
    86 % of simulations: it answered nearly every text."""
    right, confidence = drawn(500, 250)
    labels, copied = truth(500), np.arange(500) < 250
    scores = np.log(np.repeat((1 - confidence)[:, None] / 2, 3, 1))
    scores[np.arange(500), np.where(right, labels, (labels + 1) % 3)] = np.log(confidence)
    half = LabelScores(scores[250:], [None] * 250, [0] * 250, [0] * 250)
    whole = LabelScores(scores, [None] * 500, [0] * 500, [0] * 500)
    alone = EvaluationRows(LABELS, labels[250:], labels, np.ones(500, dtype=np.bool_))
    for single in ((), LABELS):
        on, beside = replace(alone, single=single), replace(alone, single=single, copied=copied)
        wanted, found = (
            calibrate(ClassifierScores("direct", {"direct": held}, {"direct": whole}, {}), rows, 0.92)
            for held, rows in ((half, on), (whole, beside))
        )
        assert found == wanted
        assert (found.rows, bool(found.given_from)) == (250, bool(single))
        scored = ClassifierScores("direct", {"direct": whole}, {"direct": whole}, {"direct": 0.0})
        entry = arm_predictions(MeasuredArm("qa", [scored], [found]), [0], beside)
        assert entry.validation_accuracy == right[250:].mean()
    few = replace(alone, validation=labels[481:], copied=np.arange(500) < 481)
    none = calibrate(ClassifierScores("direct", {"direct": whole}, {"direct": whole}, {}), few, 0.5)
    assert (none.rows, none.temperature["direct"]) == (0, 1.0)
    assert none.answer_from is not None
    assert none.answer_from["direct"] == AnswerThreshold(NO_ANSWER, 0)


def test_copies_are_told_by_their_text() -> None:
    assert copies(["I feel Great", "fine"], ["i  feel great"]).tolist() == [True, False]
    assert copies_note(1, 40).startswith("1 of 40 validation rows is also in training rows: left out where weights")
