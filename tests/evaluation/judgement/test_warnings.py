"""What is warned of beside a comparison."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from measured_arms import arm, classifier_scores, rows, truth, warned

from rir_mlx.classification.scores import LabelScores
from rir_mlx.evaluation.comparison import choose_arm
from rir_mlx.evaluation.entries import arm_predictions
from rir_mlx.evaluation.judgement.warnings import of_reasonings, trained_unlike
from rir_mlx.evaluation.schema import LabelMass
from rir_mlx.evaluation.scores import ClassifierScores, MeasuredArm, calibrate
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.types import Arm


@pytest.mark.parametrize(("count", "words"), [(19, "too few"), (20, "rough"), (499, "rough"), (500, None)])
def test_few_validation_rows_are_warned_of(count: int, words: str | None) -> None:
    found = warned([], rows(count))
    assert [words in warning for warning in found if words] == ([True] if words else [])
    assert bool(found) == bool(words)


def test_texts_that_were_cut_are_warned_of_once() -> None:
    on = rows(600)
    found = classifier_scores(on)
    cut = replace(found.test["direct"], trimmed=[3, *[0] * 78, 9])
    entry = arm_predictions(MeasuredArm("qa", [replace(found, test={"direct": cut})], [Calibration()]), [0], on)
    assert warned([entry], on) == ["The ends of 2 test texts were cut to fit into max_seq_length (qa)."]
    other = replace(entry, name="qra")
    assert warned([entry, other], on)[-1].endswith("were cut to fit into max_seq_length (qa, qra).")
    longer = replace(other, fields=other.fields | {"trimmed": 5})
    [said] = [line for line in warned([entry, longer], on) if "cut" in line]
    assert said == "The ends of test texts were cut to fit into max_seq_length: qa 2, qra 5."


def test_labels_that_are_hardly_written_and_a_temperature_at_its_bound_are_warned_of() -> None:
    on = rows(500)
    entry = arm("qa", on)
    assert not warned([entry], on)
    low = replace(entry, fields=entry.fields | {"label_mass": LabelMass(mean=0.01, p5=0.0, p50=0.002)})
    [said] = [line for line in warned([low], on) if line.startswith("qa")]
    assert "have a probability of 0.2 % (median)" in said
    noise = [
        LabelScores(np.log(np.eye(3)[truth(200, seed)] + 1e-30), [None] * 200, [0] * 200, [0] * 200) for seed in (7, 8)
    ]
    scores = ClassifierScores("direct", {"direct": noise[0]}, {"direct": noise[1]}, {"direct": 0.01})
    at_bound = rows(200, 200)
    measured = MeasuredArm("qa", [scores], [calibrate(scores, at_bound, None)])
    [said] = [line for line in warned([arm_predictions(measured, [0], at_bound)], at_bound) if "bound" in line]
    assert "at its bound of 20" in said
    unsure = np.log(np.full((200, 3), 1 / 3) + 0.03 * np.eye(3)[truth(200)])
    sure = np.log(0.98 * np.eye(3)[truth(200, 7)] + 0.01)
    ways = {
        way: LabelScores(s, [None] * 200, [0] * 200, [0] * 200) for way, s in (("direct", unsure), ("reasoned", sure))
    }
    scores = ClassifierScores("reasoned", ways, ways, dict.fromkeys(ways, 0.01))
    measured = MeasuredArm("qra", [scores], [calibrate(scores, at_bound, None)])
    [said] = [line for line in warned([arm_predictions(measured, [0], at_bound)], at_bound) if "bound" in line]
    assert said.startswith("qra: the temperature fitted for direct scores is at a bound (0.05 or 20).")


def test_few_validation_rows_and_a_wanted_accuracy_mean_that_every_text_is_abstained_on() -> None:
    """`evaluate` said nothing of it, and `classify` labelled nothing."""
    few = rows(15, 200)
    scores = classifier_scores(few)
    for wanted in (None, 0.9):
        entry = arm_predictions(MeasuredArm("qa", [scores], [calibrate(scores, few, wanted)]), [0], few)
        said = [line for line in warned([entry], few) if "abstains on every text" in line]
        assert len(said) == (wanted is not None)


def test_a_tie_on_the_validation_rows_is_said_and_goes_to_the_cheaper_arm() -> None:
    on = rows(600)
    reasons_first, cheap = arm("qra", on, main_way="reasoned"), arm("qar", on)
    reasons_first = replace(reasons_first, fields=reasons_first.fields | {"validation_accuracy": 0.966})
    cheap = replace(cheap, fields=cheap.fields | {"validation_accuracy": 0.966})
    assert choose_arm([reasons_first, cheap]) == "qar"
    [said] = [line for line in warned([reasons_first, cheap], on) if "tie" in line]
    assert said == (
        "qra and qar tie on the validation rows (96.6 %): qar is chosen, the cheapest or first one of them."
    )
    better = replace(reasons_first, fields=reasons_first.fields | {"validation_accuracy": 0.967})
    assert choose_arm([better, cheap]) == "qra"


def test_arms_that_reason_first_are_told_to_have_learned_from_fewer_rows() -> None:
    """A label of which no reasoning was kept was never seen by `qra`, and the report was silent on it."""
    arms: list[Arm] = ["qa", "qra", "qar", "qarqa", "multitask"]

    def said(kept: dict[str, float], **more: Any) -> list[str]:
        total = sum(round(20 * share) for share in kept.values())
        train = {"rows": 20 * len(kept), "kept": total, "rows_by_label": dict.fromkeys(kept, 20), "kept_by_label": kept}
        return list(of_reasonings({"train": train, **more}, arms))

    [line] = said({"billing": 1.0, "refund": 0.0})
    assert line.startswith("No reasoning of 'refund' was kept, so qra never learned that label.")
    [line] = said({"billing": 1.0, "refund": 0.5})
    assert line == "qra learns from the 30 of 40 training rows whose reasoning was kept; qa learns from all."
    [line] = said({"joy": 1.0}, ungrounded={"applied": False, "cost": 0.95, "at_most": 0.1})
    assert "the filter ungrounded would have cost 95% of the rows" in line
    assert not said({"joy": 1.0}, ungrounded={"applied": True, "cost": 0.05, "at_most": 0.1})
    assert not list(of_reasonings({}, arms))
    assert not list(of_reasonings({"train": {}}, ["qa", "qar"]))


def test_arms_that_were_trained_otherwise_are_told() -> None:
    """One arm was trained again with another rate, and its lead was put down to reasoning."""
    plain = {"arm": "qa", "seed": 0, "classifier": {"learning_rate": 1e-4, "epochs": 2}}
    reasoned = plain | {"arm": "qra", "augmented": "0123456789ab", "max_reasoning_tokens": 64}
    reasoned |= {"classifier": {"learning_rate": 1e-4, "epochs": 2, "reasoning_weight": 0.5}}
    assert list(trained_unlike({"qa": plain, "qra": reasoned, "qar": reasoned | {"arm": "qar"}})) == []
    faster = plain | {"classifier": {"learning_rate": 2e-4, "epochs": 2}}
    [told] = trained_unlike({"qa": faster, "qra": reasoned})
    assert told.startswith("qra was trained otherwise than qa (classifier.learning_rate was 0.0002, is 0.0001)")
    [told] = trained_unlike({"qra": reasoned, "qar": reasoned | {"arm": "qar", "augmented": "ba9876543210"}})
    assert "qar was trained otherwise than qra (the reasonings have changed)" in told
