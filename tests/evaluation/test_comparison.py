"""From scores to a comparison: calibration and choice by validation rows alone, and metrics without a gap."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from measured_arms import LABELS, arm, baseline, classifier_scores, label_scores, rows, share, truth, warned

from rir_mlx.classification.scores import LabelScores
from rir_mlx.evaluation.comparison import accuracy, choose_arm, compare_entries, controls_as_good
from rir_mlx.evaluation.entries import EntryPredictions, arm_predictions, changes, entry_result
from rir_mlx.evaluation.judgement.sentences import controls_sentence, verdict
from rir_mlx.evaluation.schema import Outcome
from rir_mlx.evaluation.scores import ClassifierScores, EvaluationRows, MeasuredArm, calibrate
from rir_mlx.statistics.calibration import NO_ANSWER, AnswerThreshold, Calibration
from rir_mlx.types import Way


def strict(values: Any) -> Any:
    """Through JSON, which knows no NaN."""

    def fail(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(json.dumps(values), parse_constant=fail)


def everything(entries: Sequence[EntryPredictions], on: EvaluationRows) -> dict[str, dict[str, Any]]:
    results = compare_entries(entries, on)
    return {line["name"]: line for line in strict([result.model_dump(mode="json") for result in results])}


# calibration


@pytest.mark.parametrize("count", [0, 1, 19])
def test_fewer_than_twenty_validation_rows_change_nothing(count: int) -> None:
    on = rows(count)
    found = calibrate(classifier_scores(on, main_way="reasoned"), on, None)
    assert found == Calibration()
    entry = arm("qra", on, main_way="reasoned")
    assert "calibration" not in entry.fields
    assert "reliability" not in entry.fields
    raw = classifier_scores(on, main_way="reasoned").test["reasoned"].log_probabilities
    assert entry.probabilities[0] == pytest.approx(np.exp(raw))


def test_too_sure_a_model_is_made_less_sure_by_its_validation_rows() -> None:
    on = rows(2000, 2000)
    found = replace(
        classifier_scores(on),
        validation={"direct": label_scores(share(2000, 0.7), on.validation, 8.0)},
        test={"direct": label_scores(share(2000, 0.7, 3), on.test, 8.0)},
    )
    calibration = calibrate(found, on, None)
    assert calibration.temperature["direct"] > 1.5
    assert calibration.rows == 2000
    entry = arm_predictions(MeasuredArm("qa", [found], [calibration]), [0], on)
    more = entry.fields["calibration"].model_dump()
    assert all(more["after"][key] < more["before"][key] for key in ("log_loss", "brier", "calibration_error"))
    log_loss = entry_result(entry, on).metrics.log_loss
    assert log_loss is not None
    assert log_loss.value == pytest.approx(more["after"]["log_loss"])


def test_each_way_of_reading_has_its_own_temperature_and_those_not_read_have_none() -> None:
    on = rows(500)
    found = classifier_scores(on, main_way="reasoned")
    sharp = label_scores(share(500, 0.7), on.validation, 9.0)
    temperature = calibrate(replace(found, validation={**found.validation, "reasoned": sharp}), on, None).temperature
    assert temperature["reasoned"] > 1.5 * temperature["direct"]
    assert temperature["sampled"] == 1.0


def test_nothing_is_chosen_by_the_test_rows() -> None:
    """Other test rows, whatever they hold, leave temperatures, thresholds and the chosen arm as they are."""
    on = rows(200)
    found = classifier_scores(on, validation=0.8, main_way="reasoned")
    swapped = replace(found, test={way: label_scores(share(80, 0.1), on.test, 9.0) for way in found.test})
    other = replace(on, test=(on.test + 1) % 3)
    assert calibrate(found, on, 0.9) == calibrate(swapped, other, 0.9)
    better, worse = arm("qar", on, validation=0.8, test=0.5), arm("multitask", on, validation=0.7, test=0.9)
    lines = everything([better, worse], on)
    assert lines["multitask"]["metrics"]["accuracy"]["value"] > lines["qar"]["metrics"]["accuracy"]["value"]
    assert choose_arm([better, worse]) == choose_arm([worse, better]) == "qar"


def test_a_wanted_accuracy_gives_a_threshold_or_abstains_on_every_text() -> None:
    """70 % of 400 rows are correct, whatever their confidence: 60 % can be shown, and 90 % cannot."""
    on = rows(400)
    found = classifier_scores(on, validation=0.7)
    reached, missed = calibrate(found, on, 0.6), calibrate(found, on, 0.9)
    assert reached.answer_from == {"direct": AnswerThreshold(0.0, 400)}
    assert missed.answer_from == {"direct": AnswerThreshold(NO_ANSWER, 0)}
    assert calibrate(found, on, None).answer_from is None
    few = rows(19)
    none = calibrate(classifier_scores(few), few, 0.5).answer_from
    assert none is not None
    assert none["direct"] == none["auto"] == AnswerThreshold(NO_ANSWER, 0)
    said = "qa: no threshold is shown to reach evaluate.wanted_accuracy on 400 validation rows, so it abstains"
    for calibration, is_warned in ((reached, False), (missed, True)):
        entry = arm_predictions(MeasuredArm("qa", [found], [calibration]), [0], on)
        assert any(warning.startswith(said) for warning in warned([entry], on)) == is_warned
        result = entry_result(entry, on).calibration
        assert result is not None
        assert calibration.answer_from is not None
        assert result.answered_rows == [calibration.answer_from["direct"].rows]


def test_each_way_of_classifying_has_its_own_threshold() -> None:
    """Where a reasoning helps, an answer without one needs a higher confidence, and `auto` one between them."""
    on = rows(1000)
    worse, better = (classifier_scores(on, validation=share, main_way="reasoned") for share in (0.75, 0.97))
    found = replace(
        better, validation={"direct": worse.validation["direct"], "reasoned": better.validation["reasoned"]}
    )
    thresholds = calibrate(found, on, 0.9).answer_from
    assert thresholds is not None
    assert set(thresholds) == {"direct", "reasoned", "auto"}
    assert thresholds["reasoned"] == AnswerThreshold(0.0, 1000)
    assert thresholds["direct"].rows < thresholds["auto"].rows <= 1000


def test_the_rows_that_chose_when_to_reason_have_to_show_more_of_auto() -> None:
    """371 of 400 correct show 90 % at a risk of 5 %, and 372 at one of 2.5 %. The threshold of `auto` was fitted at the
    whole risk, on the rows that had chosen when to reason: it missed in up to 8 % of simulations."""
    found = dict[int, dict[str, int]]()
    for hits in (371, 372):
        labels = (np.arange(400) >= hits).astype(int)
        scored = LabelScores(np.tile([-0.1, -2.4], (400, 1)), [None] * 400, [0] * 400, [0] * 400)
        ways: dict[Way, LabelScores] = {"direct": scored, "reasoned": scored}
        on = EvaluationRows(["a", "b"], labels, labels, np.ones(400, dtype=np.bool_))
        thresholds = calibrate(ClassifierScores("reasoned", ways, ways, {}), on, 0.9).answer_from
        found[hits] = {mode: at.rows for mode, at in (thresholds or {}).items()}
    assert found[371] == {"direct": 400, "reasoned": 400, "auto": 0}
    assert found[372] == {"direct": 400, "reasoned": 400, "auto": 400}


def test_the_threshold_for_reasoning_is_that_of_the_confidence_which_auto_sees() -> None:
    """The calibrated one of the reading without a reasoning."""
    on = rows(300)
    sure = share(300, 0.5)
    scores = label_scores(sure, on.validation, 9.0).scores
    scores[~sure] /= 4
    direct = LabelScores(scores, [None] * 300, [0] * 300, [0] * 300)
    reasoned = label_scores(np.ones(300, bool), on.validation, tokens=9)
    found = ClassifierScores("reasoned", {"direct": direct, "reasoned": reasoned}, {}, {})
    calibration = calibrate(found, on, None)
    assert calibration.reason_below is not None
    seen = calibration.probabilities(direct.log_probabilities, "direct").max(1)
    doubted = seen < calibration.reason_below
    assert np.where(doubted, True, direct.scores.argmax(1) == on.validation).all()
    assert calibrate(classifier_scores(on), on, None).reason_below is None


# the choice


def test_controls_baselines_and_label_only_are_never_chosen() -> None:
    on = rows()
    scrambled = arm("qra-scrambled", on, kind="control", validation=0.99, main_way="reasoned")
    others = [arm("qa", on, validation=0.95), scrambled, baseline("tf-idf", on, 1.0)]
    assert choose_arm(others) is None
    assert choose_arm([*others, arm("qar", on, validation=0.4)]) == "qar"


def test_of_equal_arms_of_equal_cost_the_first_is_chosen_and_without_validation_rows_a_warning_says_so() -> None:
    on = rows()
    first, second = arm("multitask", on), arm("qar", on)
    assert choose_arm([first, second]) == "multitask"
    none = rows(0)
    entries = [arm("qa", none), arm("qra", none, main_way="reasoned", test=0.3), arm("qar", none, test=0.9)]
    assert [entry.validation_accuracy for entry in entries] == [None] * 3
    assert choose_arm(entries) == "qar"
    found = warned(entries, none)
    assert found[0] == (
        "There are no validation rows to choose an arm by: qar is the one that generates the fewest tokens."
    )
    assert found[1] == "Without validation rows, probabilities are uncalibrated."
    assert len(warned(entries[:1], none)) == 1


# figures


def test_every_line_is_measured_on_the_same_rows_and_compared_with_label_only() -> None:
    on = rows(100, 200)
    entries = [
        arm("qa", on, test=0.6, seeds=3),
        arm("qra", on, test=0.9, main_way="reasoned", seeds=3),
        arm("qra-words", on, kind="control", test=0.6, main_way="reasoned", seeds=3),
        baseline("majority", on, 0.3, probabilistic=False),
        baseline("tf-idf", on, 0.75),
    ]
    lines = everything(entries, on)
    for entry in entries:
        line = lines[entry.name]
        share_correct = np.mean(entry.probabilities.argmax(-1) == on.test)
        assert line["metrics"]["accuracy"]["value"] == pytest.approx(share_correct)
        assert len(line["by_seed"]["accuracy"]) == len(entry.probabilities)
        assert np.array(line["confusion"]).sum() == 200 * len(entry.probabilities)
        assert sum(label["support"] for label in line["per_class"]) == 200
        if entry.name != "qa":
            assert line["against"]["first"] == "qa"
            assert line["against"]["difference"]["value"] == pytest.approx(share_correct - 0.6)
            assert len(line["against"]["by_seed"]) == 3
    assert lines["qa"]["against"] is None
    assert lines["qra"]["beats"] == ["majority", "tf-idf"]
    assert lines["qa"]["beats"] == lines["qra-words"]["beats"] == ["majority"]
    assert lines["majority"]["metrics"]["log_loss"] is None
    assert lines["majority"]["risk_coverage"] is None
    assert lines["majority"]["beats"] == lines["tf-idf"]["beats"] == []
    assert lines["qra"]["cost"]["tokens_generated"] == 7


def test_without_label_only_nothing_is_compared_with_it() -> None:
    on = rows()
    results = compare_entries([arm("qar", on), baseline("majority", on, 0.1, probabilistic=False)], on)
    assert [result.against for result in results] == [None, None]
    assert results[0].beats == ["majority"]


@pytest.mark.parametrize(("clean", "there"), [(0, False), (1, True), (40, True), (79, True), (80, False)])
def test_cleaned_metrics_are_there_if_some_rows_are_clean_and_some_are_not(clean: int, there: bool) -> None:
    on = rows(30, clean=np.arange(80) < clean)
    line = everything([arm("qa", on)], on)["qa"]
    assert (line["cleaned"] is not None) == there
    if there:
        entry = arm("qa", on)
        right = entry.probabilities[0].argmax(1) == on.test
        assert line["cleaned"]["accuracy"]["value"] == pytest.approx(right[:clean].mean())
        assert line["cleaned"].keys() == line["metrics"].keys()


@pytest.mark.parametrize(("validation", "test"), [(100, 1), (0, 1), (0, 80), (19, 2), (20, 2)])
@pytest.mark.parametrize("main_way", ["direct", "reasoned"])
def test_few_rows_leave_no_number_that_json_does_not_know(validation: int, test: int, main_way: Way) -> None:
    on = rows(validation, test)
    entries = [arm("qa", on, seeds=2), arm("qra", on, main_way=main_way, seeds=2), baseline("tf-idf", on, 0.5)]
    lines = everything(entries, on)
    assert list(lines) == ["qa", "qra", "tf-idf"]
    assert all((line["validation_accuracy"] is None) == (validation == 0) for line in list(lines.values())[:2])


def test_labels_without_any_row_leave_no_hole() -> None:
    on = EvaluationRows(["joy", "sadness", "anger", "fear"], truth(50) % 2, truth(40, 1) % 2, np.ones(40, bool))
    probabilities = np.tile([[0.7, 0.3, 0.0, 0.0]], (40, 1))[None]
    line = everything([EntryPredictions("qa", "arm", probabilities)], on)["qa"]
    assert [label["support"] for label in line["per_class"]][2:] == [0, 0]
    assert line["metrics"]["balanced_accuracy"]["value"] == pytest.approx(0.5)


# what reasoning costs


def test_the_curve_starts_without_reasoning_and_ends_with_it_always() -> None:
    on = rows(200, 100)
    entry = arm("qra", on, main_way="reasoned", test=0.8, seeds=2)
    points = entry.fields["cost_curve"]
    never, always, chosen_by_validation, *swept = points
    assert (never.reason, never.tokens_generated, never.share_reasoned) == ("never", 0, 0)
    assert (always.reason, always.tokens_generated, always.share_reasoned) == ("always", 7, 1)
    assert chosen_by_validation.reason == "auto"
    assert chosen_by_validation.tokens_generated == pytest.approx(7 * chosen_by_validation.share_reasoned)
    assert swept[0].accuracy == never.accuracy
    assert swept[-1].accuracy == always.accuracy == entry_result(entry, on).metrics.accuracy
    shares = [point.share_reasoned for point in swept]
    assert shares == sorted(shares)
    strict([point.model_dump(mode="json") for point in points])


def test_ever_more_chains_are_points_of_the_curve_and_the_last_is_the_mean_of_all() -> None:
    on = rows(30, 60)
    found = classifier_scores(on, main_way="reasoned")
    chains = [label_scores(share(60, 0.6, seed), on.test, tokens=5) for seed in range(5)]
    entry = arm_predictions(MeasuredArm("qra", [replace(found, chains=chains)], [Calibration()]), [0], on)
    points = {point.samples: point for point in entry.fields["cost_curve"] if point.samples > 1}
    assert list(points) == [2, 4, 5]
    merged = LabelScores.averaged(chains)
    assert points[5].accuracy.value == pytest.approx(np.mean(merged.scores.argmax(1) == on.test))
    assert [point.tokens_generated for point in points.values()] == [10, 20, 25]


def test_an_arm_that_answers_first_has_no_curve() -> None:
    assert arm("qar", rows()).fields["cost_curve"] is None


def test_a_control_that_does_as_well_is_said_beside_the_verdict() -> None:
    on = rows(test=400)
    best, equal = arm("qra", on, test=0.9), arm("qra-scrambled", on, kind="control", test=0.9)
    worse = arm("qra-words", on, kind="control", test=0.5)
    assert controls_as_good([best, equal, worse], "qra", on) == ["qra-scrambled"]
    assert "qra is not shown to be better than qra-scrambled, trained" in controls_sentence("qra", ["qra-scrambled"])
    assert controls_as_good([best, worse], "qra", on) == []
    assert controls_as_good([best, arm("qar", on, test=0.95)], "qra", on) == []
    assert controls_sentence("qra", []) == ""


def test_rows_that_leaked_decide_nothing() -> None:
    """An arm that knows the copies of training rows by heart is not better at classifying."""
    clean = np.arange(400) >= 120
    on = rows(test=400, clean=clean)
    label_only = arm("qa", on, test=0.7, seeds=3)
    known = label_only.probabilities.copy()
    known[:, ~clean] = np.eye(3)[on.test[~clean]]
    line = everything([label_only, replace(label_only, name="qra", probabilities=known)], on)["qra"]
    assert line["metrics"]["accuracy"]["value"] > 0.75
    assert line["against"]["rows"] == 280
    assert line["against"]["difference"]["value"] == 0
    assert accuracy(label_only, on) == pytest.approx((label_only.probabilities.argmax(-1) == on.test)[:, clean].mean())
    text = verdict(compare_entries([label_only, replace(label_only, name="qra")], on)[1].against, left_out=120)
    assert "280 test rows, 3 seeds" in text
    assert "120 test rows are left out: copies of training or validation rows, or texts with two labels." in text


def test_without_a_clean_row_all_are_compared_with_a_warning() -> None:
    on = rows(test=50, clean=np.zeros(50, bool))
    assert everything([arm("qa", on), arm("qra", on)], on)["qra"]["against"]["rows"] == 50
    assert any("Every test text is also a training or validation text" in line for line in warned([], on))
    assert not any("Every test text" in line for line in warned([], rows(test=0)))


# what a reasoning changed


def test_an_arm_that_answers_twice_says_what_its_reasoning_changed() -> None:
    """Row by row, on the rows that comparisons use: the last two are copies of training rows."""
    clean = np.array([True] * 8 + [False] * 2)
    on = EvaluationRows(LABELS, truth(30), np.zeros(10, np.int64), clean)
    firsts, seconds = [0, 0, 0, 1, 1, 1, 2, 0, 1, 1], [0, 0, 1, 0, 0, 1, 1, 0, 0, 0]
    scores = ClassifierScores("reasoned", {}, {"direct": chosen(firsts), "reasoned": chosen(seconds)}, {}, ())
    found = changes(MeasuredArm("qarqa", [scores, scores], [Calibration()] * 2), on)
    kinds = {name: value.rows for name, value in found if isinstance(value, Outcome)}
    assert kinds == {"corrected": 4, "spoiled": 2, "kept_right": 6, "kept_wrong": 2, "wrong_otherwise": 2}
    assert sum(value.share.value for _, value in found if isinstance(value, Outcome)) == pytest.approx(1)
    assert found.first_accuracy.value == 0.5
    assert found.against_first.rows == 8
    assert found.against_first.difference.value == pytest.approx(1 / 8)
    assert [(seed.gained, seed.lost, seed.p_value) for seed in found.against_first.by_seed] == [(2, 1, 1.0)] * 2


def chosen(labels: Sequence[int]) -> LabelScores:
    """Scores by which each row has that label."""
    return label_scores(np.ones(len(labels), bool), np.array(labels), margin=9.0)


def test_thresholds_are_judged_on_the_clean_test_rows() -> None:
    on = rows(1000, 400, np.arange(400) >= 100)
    found = classifier_scores(on, validation=0.97, test=0.97, main_way="reasoned")
    wrong = on.test.copy()
    wrong[:100] = (wrong[:100] + 1) % 3  # the leaked rows
    on = replace(on, test=wrong)
    calibration = calibrate(found, on, 0.9)
    entry = arm_predictions(MeasuredArm("qra", [found], [calibration]), [0], on)
    result = entry_result(entry, on).calibration
    assert result is not None
    assert calibration.answer_from is not None
    assert (result.wanted, [row.mode for row in result.answered]) == (0.9, ["direct", "reasoned", "auto"])
    for row in result.answered:
        at = calibration.answer_from[row.mode]
        assert (row.threshold, row.validation_rows) == (at.confidence, at.rows)
    probabilities = calibration.probabilities(found.test["reasoned"].log_probabilities, "reasoned")[100:]
    given = probabilities.max(1) >= result.answered[1].threshold
    accuracy = result.answered[1].accuracy
    assert accuracy is not None
    assert result.answered[1].share == given.mean() > 0
    assert accuracy.value == (probabilities.argmax(1) == on.test[100:])[given].mean() > 0.9
    missed = arm_predictions(MeasuredArm("qra", [found], [calibrate(found, on, 1.0)]), [0], on)
    nothing = entry_result(missed, on).calibration
    assert nothing is not None
    assert [(row.share, row.accuracy) for row in nothing.answered] == [(0.0, None)] * 3


def test_a_baseline_without_a_label_that_rows_have_a_share_of_has_no_log_loss() -> None:
    """It counted the label's probability of 0 as 1e-12: the log-loss said nothing of the baseline."""
    shares = np.tile([0.6, 0.4, 0.0], (80, 1))
    on = replace(rows(), test=np.zeros(80, dtype=np.int64), shares=(shares, shares))
    for given, is_left_out in (([0.7, 0.0, 0.3], True), ([0.6, 0.4, 0.0], False)):
        probabilities = np.tile(given, (1, 80, 1))
        result = entry_result(EntryPredictions("tf-idf", "baseline", probabilities), on)
        assert (result.metrics.log_loss is None) == (result.by_seed.log_loss is None) == is_left_out
        assert result.metrics.brier is not None
    on = replace(on, test=np.array([*[0] * 79, 2]), shares=None)  # a label, or combination, that no training row has
    for given, is_left_out in (([0.6, 0.4, 0.0], True), ([0.5, 0.4, 0.1], False)):
        result = entry_result(EntryPredictions("tf-idf", "baseline", np.tile(given, (1, 80, 1))), on)
        assert (result.metrics.log_loss is None) == is_left_out
