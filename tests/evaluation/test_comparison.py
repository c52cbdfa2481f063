"""What is made of answers: calibration and choice by validation rows alone, and figures without a hole in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from rir_mlx.classification.classifier import LabelScores
from rir_mlx.evaluation.comparison import (
    Answers,
    Entry,
    Rows,
    arm_entry,
    calibrate,
    chosen,
    compared,
    described,
    doubt,
    warnings,
)
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.types import Way

LABELS = ["joy", "sadness", "anger"]


@dataclass
class Found:
    answers: list[Answers]
    calibrations: list[Calibration]


def truth(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, count)


def reading(right: np.ndarray, labels: np.ndarray, margin: float = 2.0, tokens: int = 0) -> LabelScores:
    """Scores that are about `margin` in favour of the row's label where `right`, else of the next one."""
    draw = np.random.default_rng(len(right))
    scores = draw.normal(0, 0.3, (len(labels), 3)) - 3
    scores[np.arange(len(labels)), np.where(right, labels, (labels + 1) % 3)] += margin
    return LabelScores(scores, [None] * len(labels), [tokens] * len(labels), [0] * len(labels))


def share(count: int, of: float, seed: int = 0) -> np.ndarray:
    """True for that share of the rows, in some order."""
    return np.random.default_rng(seed).permutation(count) < round(of * count)


def rows(validation: int = 100, test: int = 80, clean: np.ndarray | None = None) -> Rows:
    return Rows(LABELS, truth(validation), truth(test, 1), np.ones(test, bool) if clean is None else clean)


def answers(
    on: Rows, *, validation: float = 0.7, test: float = 0.7, headline: Way = "direct", seed: int = 0
) -> Answers:
    ways: tuple[Way, ...] = ("direct",) if headline == "direct" else ("direct", "reasoned")
    held, tested = (
        {
            way: reading(share(len(part), accuracy, seed + place), part, tokens=7 * place)
            for place, way in enumerate(ways)
        }
        for part, accuracy in ((on.validation, validation), (on.test, test))
    )
    return Answers(headline, held, tested, dict.fromkeys(ways, 0.01))


def arm(name: str, on: Rows, *, kind: str = "arm", seeds: int = 1, **more: Any) -> Entry:
    each = [answers(on, seed=10 * seed, **more) for seed in range(seeds)]
    return arm_entry(name, kind, range(seeds), Found(each, [calibrate(one, on, None) for one in each]), on)


def baseline(name: str, on: Rows, accuracy: float, *, probabilistic: bool = True) -> Entry:
    found = reading(share(len(on.test), accuracy, 5), on.test)
    return Entry(name, "baseline", np.exp(found.log_probabilities)[None], probabilistic=probabilistic)


def strict(values: Any) -> Any:
    """Through JSON, which knows no NaN."""

    def fail(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(json.dumps(values), parse_constant=fail)


def everything(entries: Sequence[Entry], on: Rows) -> dict[str, dict[str, Any]]:
    lines, _ = compared(entries, on)
    return {line["name"]: line for line in strict(lines)}


# calibration


@pytest.mark.parametrize("count", [0, 1, 19])
def test_fewer_than_twenty_validation_rows_change_nothing(count: int) -> None:
    on = rows(count)
    found = calibrate(answers(on, headline="reasoned"), on, 0.9)
    assert found == Calibration(rows=count)
    entry = arm("qra", on, headline="reasoned")
    assert "calibration" not in entry.more
    assert "reliability" not in entry.more
    raw = answers(on, headline="reasoned").test["reasoned"].log_probabilities
    assert entry.probabilities[0] == pytest.approx(np.exp(raw))


def test_too_sure_a_model_is_made_less_sure_by_its_validation_rows() -> None:
    on = rows(2000, 2000)
    found = replace(
        answers(on),
        validation={"direct": reading(share(2000, 0.7), on.validation, 8.0)},
        test={"direct": reading(share(2000, 0.7, 3), on.test, 8.0)},
    )
    calibration = calibrate(found, on, None)
    assert calibration.temperature["direct"] > 1.5
    assert calibration.rows == 2000
    entry = arm_entry("qa", "arm", [0], Found([found], [calibration]), on)
    more = entry.more["calibration"]
    assert all(more["after"][key] < more["before"][key] for key in ("log_loss", "brier", "ece"))
    own = described(entry, on)["figures"]
    assert own["log_loss"]["value"] == pytest.approx(more["after"]["log_loss"])


def test_each_way_of_reading_has_its_own_temperature_and_those_not_read_have_none() -> None:
    on = rows(500)
    found = answers(on, headline="reasoned")
    sharp = reading(share(500, 0.7), on.validation, 9.0)
    temperature = calibrate(replace(found, validation={**found.validation, "reasoned": sharp}), on, None).temperature
    assert temperature["reasoned"] > 1.5 * temperature["direct"]
    assert temperature["sampled"] == 1.0


def test_nothing_is_chosen_by_the_test_rows() -> None:
    """Other test rows, whatever they hold, leave temperatures, thresholds and the chosen arm as they are."""
    on = rows(200)
    found = answers(on, validation=0.8, headline="reasoned")
    swapped = replace(found, test={way: reading(share(80, 0.1), on.test, 9.0) for way in found.test})
    other = replace(on, test=(on.test + 1) % 3)
    assert calibrate(found, on, 0.9) == calibrate(swapped, other, 0.9)
    better, worse = arm("qar", on, validation=0.8, test=0.5), arm("multitask", on, validation=0.7, test=0.9)
    lines = everything([better, worse], on)
    assert lines["multitask"]["figures"]["accuracy"]["value"] > lines["qar"]["figures"]["accuracy"]["value"]
    assert chosen([better, worse]) == chosen([worse, better]) == "qar"


def test_the_wanted_accuracy_gives_the_threshold_that_reaches_it_on_validation_rows() -> None:
    on = rows(400)
    found = answers(on, validation=0.7)
    calibration = calibrate(found, on, 0.8)
    assert calibration.answer_from is not None
    chances = calibration.probabilities(found.validation["direct"].log_probabilities, "direct")
    answered = chances.max(1) >= calibration.answer_from
    assert np.mean(chances.argmax(1)[answered] == on.validation[answered]) >= 0.8
    assert calibrate(found, on, 0.5).answer_from == 0.0
    assert calibrate(found, on, None).answer_from is None


def test_the_threshold_for_reasoning_is_that_of_the_confidence_which_auto_sees() -> None:
    """The calibrated one of the reading without a reasoning."""
    on = rows(300)
    sure = share(300, 0.5)
    scores = reading(sure, on.validation, 9.0).scores
    scores[~sure] /= 4
    direct = LabelScores(scores, [None] * 300, [0] * 300, [0] * 300)
    reasoned = reading(np.ones(300, bool), on.validation, tokens=9)
    found = Answers("reasoned", {"direct": direct, "reasoned": reasoned}, {}, {})
    calibration = calibrate(found, on, None)
    assert calibration.reason_below is not None
    seen = calibration.probabilities(direct.log_probabilities, "direct").max(1)
    doubted = seen < calibration.reason_below
    assert np.where(doubted, True, direct.scores.argmax(1) == on.validation).all()
    assert calibrate(answers(on), on, None).reason_below is None


# the choice


def test_controls_baselines_and_label_only_are_never_chosen() -> None:
    on = rows()
    scrambled = arm("qra-scrambled", on, kind="control", validation=0.99, headline="reasoned")
    others = [arm("qa", on, validation=0.95), scrambled, baseline("tf-idf", on, 1.0)]
    assert chosen(others) is None
    assert chosen([*others, arm("qar", on, validation=0.4)]) == "qar"


def test_of_equal_arms_the_first_is_chosen_and_without_validation_rows_this_is_said() -> None:
    on = rows()
    first, second = arm("multitask", on), arm("qar", on)
    assert chosen([first, second]) == "multitask"
    none = rows(0)
    entries = [arm("qa", none), arm("qra", none, headline="reasoned", test=0.3), arm("qar", none, test=0.9)]
    assert [one.more["validation_accuracy"] for one in entries] == [None] * 3
    assert chosen(entries) == "qra"
    found = warnings(entries, none)
    assert found[0] == "Without validation rows no arm could be chosen: qra is the first of the recipe's."
    assert "0 validation rows are too few to calibrate" in found[1]
    assert len(warnings(entries[:1], none)) == 1


@pytest.mark.parametrize(("count", "words"), [(19, "too few"), (20, "rough"), (499, "rough"), (500, None)])
def test_few_validation_rows_are_warned_of(count: int, words: str | None) -> None:
    found = warnings([], rows(count))
    assert [words in one for one in found if words] == ([True] if words else [])
    assert bool(found) == bool(words)


def test_texts_that_were_cut_are_warned_of_by_arm() -> None:
    on = rows(600)
    found = answers(on)
    cut = replace(found.test["direct"], trimmed=[3, *[0] * 78, 9])
    entry = arm_entry("qa", "arm", [0], Found([replace(found, test={"direct": cut})], [Calibration()]), on)
    assert warnings([entry], on) == ["qa: 2 test texts were cut at their end to fit into max_seq_length."]


# figures


def test_every_line_is_measured_on_the_same_rows_and_compared_with_label_only() -> None:
    on = rows(100, 200)
    entries = [
        arm("qa", on, test=0.6, seeds=3),
        arm("qra", on, test=0.9, headline="reasoned", seeds=3),
        arm("qra-words", on, kind="control", test=0.6, headline="reasoned", seeds=3),
        baseline("majority", on, 0.3, probabilistic=False),
        baseline("tf-idf", on, 0.75),
    ]
    lines = everything(entries, on)
    for entry in entries:
        line = lines[entry.name]
        accuracy = np.mean(entry.probabilities.argmax(-1) == on.test)
        assert line["figures"]["accuracy"]["value"] == pytest.approx(accuracy)
        assert len(line["by_seed"]["accuracy"]) == len(entry.probabilities)
        assert np.array(line["confusion"]).sum() == 200 * len(entry.probabilities)
        assert sum(one["support"] for one in line["per_class"]) == 200
        if entry.name != "qa":
            assert line["against"]["first"] == "qa"
            assert line["against"]["difference"]["value"] == pytest.approx(accuracy - 0.6)
            assert len(line["against"]["by_seed"]) == 3
    assert lines["qa"]["against"] is None
    assert lines["qra"]["beats"] == ["majority", "tf-idf"]
    assert lines["qa"]["beats"] == lines["qra-words"]["beats"] == ["majority"]
    assert lines["majority"]["figures"]["log_loss"] is None
    assert lines["majority"]["risk_coverage"] is None
    assert lines["majority"]["beats"] == lines["tf-idf"]["beats"] == []
    assert lines["qra"]["cost"]["tokens_written"] == 7


def test_without_label_only_nothing_is_compared_with_it() -> None:
    on = rows()
    lines, against = compared([arm("qar", on), baseline("majority", on, 0.1, probabilistic=False)], on)
    assert against == {}
    assert [line["against"] for line in lines] == [None, None]
    assert lines[0]["beats"] == ["majority"]


@pytest.mark.parametrize(("clean", "there"), [(0, False), (1, True), (40, True), (79, True), (80, False)])
def test_cleaned_figures_are_there_where_some_rows_are_clean_and_some_are_not(clean: int, there: bool) -> None:
    on = rows(30, clean=np.arange(80) < clean)
    line = everything([arm("qa", on)], on)["qa"]
    assert (line["cleaned"] is not None) == there
    if there:
        entry = arm("qa", on)
        right = entry.probabilities[0].argmax(1) == on.test
        assert line["cleaned"]["accuracy"]["value"] == pytest.approx(right[:clean].mean())
        assert line["cleaned"].keys() == line["figures"].keys()


@pytest.mark.parametrize(("validation", "test"), [(100, 1), (0, 1), (0, 80), (19, 2), (20, 2)])
@pytest.mark.parametrize("headline", ["direct", "reasoned"])
def test_few_rows_leave_no_number_that_json_does_not_know(validation: int, test: int, headline: Way) -> None:
    on = rows(validation, test)
    entries = [arm("qa", on, seeds=2), arm("qra", on, headline=headline, seeds=2), baseline("tf-idf", on, 0.5)]
    lines = everything(entries, on)
    assert list(lines) == ["qa", "qra", "tf-idf"]
    assert all((line["validation_accuracy"] is None) == (validation == 0) for line in list(lines.values())[:2])


def test_labels_without_any_row_leave_no_hole() -> None:
    on = Rows(["joy", "sadness", "anger", "fear"], truth(50) % 2, truth(40, 1) % 2, np.ones(40, bool))
    chances = np.tile([[0.7, 0.3, 0.0, 0.0]], (40, 1))[None]
    line = everything([Entry("qa", "arm", chances)], on)["qa"]
    assert [one["support"] for one in line["per_class"]][2:] == [0, 0]
    assert line["figures"]["balanced_accuracy"]["value"] == pytest.approx(0.5)


# what reasoning costs


def test_the_curve_starts_without_reasoning_and_ends_with_it_always() -> None:
    on = rows(200, 100)
    entry = arm("qra", on, headline="reasoned", test=0.8, seeds=2)
    points = entry.more["curve"]
    never, always, chosen_by_validation, *swept = points
    assert (never["reason"], never["tokens_written"], never["share_reasoned"]) == ("never", 0, 0)
    assert (always["reason"], always["tokens_written"], always["share_reasoned"]) == ("always", 7, 1)
    assert chosen_by_validation["reason"] == "auto"
    assert chosen_by_validation["tokens_written"] == pytest.approx(7 * chosen_by_validation["share_reasoned"])
    assert swept[0]["accuracy"] == never["accuracy"]
    assert swept[-1]["accuracy"] == always["accuracy"] == described(entry, on)["figures"]["accuracy"]
    shares = [one["share_reasoned"] for one in swept]
    assert shares == sorted(shares)
    strict(points)


def test_ever_more_chains_are_points_of_the_curve_and_the_last_is_the_mean_of_all() -> None:
    on = rows(30, 60)
    found = answers(on, headline="reasoned")
    chains = [reading(share(60, 0.6, seed), on.test, tokens=5) for seed in range(5)]
    entry = arm_entry("qra", "arm", [0], Found([replace(found, chains=chains)], [Calibration()]), on)
    points = {one["samples"]: one for one in entry.more["curve"] if one["samples"] > 1}
    assert list(points) == [2, 4, 5]
    merged = LabelScores.averaged(chains)
    assert points[5]["accuracy"]["value"] == pytest.approx(np.mean(merged.scores.argmax(1) == on.test))
    assert [one["tokens_written"] for one in points.values()] == [10, 20, 25]


def test_an_arm_that_answers_first_has_no_curve() -> None:
    assert arm("qar", rows()).more["curve"] is None


def test_a_control_that_does_as_well_is_said_beside_the_verdict() -> None:
    on = rows(test=400)
    best, equal = arm("qra", on, test=0.9), arm("qra-scrambled", on, kind="control", test=0.9)
    worse = arm("qra-words", on, kind="control", test=0.5)
    assert "not shown to be better than qra-scrambled, which" in doubt([best, equal, worse], "qra", on)
    assert doubt([best, worse], "qra", on) == ""
    assert doubt([best, arm("qar", on, test=0.95)], "qra", on) == ""
