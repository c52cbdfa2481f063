"""A trial of minutes says what the whole run will probably find, and claims no more than it measured."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import LABELS, WORDS, Run, write_csv
from comparisons import a_comparison

from rir_mlx.data.loading import LabelledData, load_labelled
from rir_mlx.errors import UserError
from rir_mlx.evaluation.judgement.headline import ONE_LABEL, not_learned, too_few_rows
from rir_mlx.evaluation.schema import Comparison, Headline
from rir_mlx.guide.pilot.outlook import Outlook, outlook
from rir_mlx.guide.pilot.shortening import pilot_recipe, write_pilot_rows
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.recipe.schema import Recipe
from rir_mlx.storage.layout import RunDir, newest_run
from rir_mlx.storage.run_lock import RunLock


def judged(
    change: float, spread: float, by_chance: float = 0.0, tf_idf: float = -0.1, rows: int = 0, **more: Any
) -> Outlook:
    """Of a pilot whose reasoning arm, control and TF-IDF differ so much from label-only."""
    values = a_comparison()
    for name, value in (("qar", change), ("qra-scrambled", by_chance), ("tf-idf", tf_idf)):
        found = next(entry for entry in values["entries"] if entry["name"] == name)
        gained, lost = round(20 + 400 * max(value, 0)), round(20 - 400 * min(value, 0))
        found["against"] = values["entries"][1]["against"] | {
            "rows": 400,
            "difference": {"value": value, "low": value - spread, "high": value + spread},
            "by_seed": [{"difference": value, "gained": gained, "lost": lost, "p_value": 0.5}],
        }
    falling = more.pop("falling", ())
    values["headline"] = more.pop("headline", {"text": "One seed.", "finding": "unclear"})
    return outlook(Comparison.model_validate(values | more), 20_000, ["augmentation"], rows, falling)


@pytest.mark.parametrize(
    ("change", "spread", "by_chance", "expected"),
    [
        (0.08, 0.05, 0.0, "helps"),
        (0.08, 0.05, 0.09, "too small"),  # a control of other rows' reasonings gains as much
        (0.11, 0.05, 0.1075, "too small"),
        (0.11, 0.05, 0.1125, "too small"),
        (0.04, 0.05, 0.0375, "too small"),
        (0.08, 0.05, 0.04, "leans to helping"),
        (0.08, 0.05, 0.2, "open"),
        (0.04, 0.05, 0.0, "leans to helping"),
        (0.01, 0.03, 0.0, "open"),
        (0.01, 0.05, 0.0, "too small"),
        (-0.028, 0.055, 0.0, "too small"),  # "no difference", and the whole run lost 8.9 points
        (-0.04, 0.05, 0.0, "leans to hurting"),
        (-0.08, 0.05, 0.0, "hurts"),
    ],
)
def test_the_expectation_follows_the_interval_and_the_control(
    change: float, spread: float, by_chance: float, expected: str
) -> None:
    found = judged(change, spread, by_chance)
    assert found.expectation == expected
    assert found.as_dict()["text"] == found.text
    assert found.as_dict()["warnings"] == ["66 test rows are near copies."]
    beside_control = "other rows' reasonings" in found.text
    assert beside_control == (by_chance > 0)
    assert ("probably" in found.text) == (expected in ("helps", "hurts", "open") and not beside_control)
    assert ("shows no difference" in found.text) == (expected == "open" and not beside_control)
    assert ("too small to tell whether" in found.text) == (expected == "too small" and not beside_control)


def test_a_gain_on_a_label_only_that_is_behind_tf_idf_may_be_a_head_start() -> None:
    """On 300 of 14,000 tweets a gain of 14 points was called a probable help, and the whole run found a loss."""
    found = judged(0.138, 0.06, tf_idf=0.095)
    assert found.expectation == "leans to helping"
    assert "label-only is shown to be worse than TF-IDF" in found.text
    assert judged(0.138, 0.06, tf_idf=0.05).expectation == "helps", "the interval of TF-IDF includes 0"


def test_a_loss_of_arms_that_were_still_learning_is_no_probable_loss_of_the_whole_run() -> None:
    """A gain was softened where label-only may have been behind, and a loss never was."""
    behind = judged(-0.138, 0.06, tf_idf=0.095)
    assert behind.expectation == "leans to hurting"
    assert "label-only is shown to be worse than TF-IDF" in behind.text
    early = judged(-0.138, 0.06, falling=["qar"])
    assert early.expectation == "leans to hurting"
    assert "its loss was still falling" in early.text
    assert judged(-0.138, 0.06, falling=["qa"]).expectation == "hurts", "label-only would be further ahead"


def test_many_more_rows_in_the_whole_run_are_a_signal() -> None:
    trained = a_comparison()["rows"]["train"]
    assert "times as many" not in "".join(judged(0.08, 0.05, rows=2 * trained - 1).signals)
    assert (
        f"The whole run trains on {3 * trained:,} rows, 3 times as many"
        in judged(0.08, 0.05, rows=3 * trained).signals[-1]
    )


def test_a_pilot_that_learned_nothing_expects_nothing() -> None:
    headline = {"text": "Nothing learned: no arm beats always answering the most frequent label.", "finding": "failed"}
    found = judged(0.3, 0.01, headline=headline)
    assert found.expectation == "not learned"
    assert "says nothing about reasoning" in found.text


@pytest.mark.parametrize(
    ("by_chance", "said"),
    [
        (0.0, "less: what they say counts."),
        (0.06, "less, and the pilot cannot tell whether what they say counts."),
        (0.1075, "about as much, and the pilot cannot tell whether what they say counts."),
        (0.11, "about as much, and the pilot cannot tell whether what they say counts."),
        (0.15, "more, and the pilot cannot tell whether what they say counts."),
        (0.3, "more: what they say is not what counts."),
    ],
)
def test_a_single_row_does_not_decide_whether_what_reasonings_say_counts(by_chance: float, said: str) -> None:
    """The arm gained 44 of 400 rows. With 43 of the control it was `helps` and `what they say counts`, with 44
    `open`."""
    [signal] = [line for line in judged(0.11, 0.03, by_chance).signals if line.startswith("With other rows'")]
    assert signal.endswith(said)
    found = judged(0.11, 0.03, by_chance)
    wanted = {0.0: "helps", 0.06: "leans to helping", 0.3: "open"}
    assert found.expectation == wanted.get(by_chance, "too small")


@pytest.mark.parametrize("headline", [too_few_rows(40), ONE_LABEL, not_learned(["qra"], open_to_doubt=True)])
def test_rows_that_leave_learning_open_lean_to_nothing(headline: Headline) -> None:
    """Of 40 rows the comparison said that they cannot show whether an arm learned, and the outlook that it may help."""
    found = judged(0.075, 0.2, -0.025, headline=headline.model_dump())
    assert found.expectation == "not learned"
    assert (
        found.text
        == "The pilot's rows do not show whether an arm learned the task, so it says nothing about reasoning."
    )


def test_the_signals_are_those_that_were_measured() -> None:
    information = {"threshold": 1.0, "by_label": {"joy": {"median": 0.4}, "fear": {"median": 2.0}}}
    augmentation = a_comparison()["augmentation"] | {"mutual_information": information}
    found = judged(0.08, 0.05, augmentation=augmentation)
    text = "\n".join(found.signals)
    assert "qar against qa: +8.0 points (95 % interval +3.0 to +13.0)." in text
    assert "other rows' reasonings (qra-scrambled): +0.0 points (95 % interval -5.0 to +5.0), less" in text
    assert "Mutual information of reasoning and text: 1.2 nats (median over labels, the lowest 0.4)" in text
    assert "More labels are likely to help." in text
    assert found.cost == "The whole run takes about 5.6 h, and augmentation, which depends on a server."
    bare = judged(0.08, 0.05, augmentation=None, learning_curve=None)
    assert len(bare.signals) == 3


def test_a_recipe_without_reasonings_or_with_hardly_any_rows_has_no_pilot(recipe: Path) -> None:
    few = load_recipe(recipe, (f"data.train={recipe.parent}/rows.csv",))
    data = load_labelled(few.data, few.seed)
    with pytest.raises(UserError, match="45 training rows are too few"):
        pilot_recipe(few, data, recipe.parent)
    with pytest.raises(UserError, match="no arm that reasons"):
        pilot_recipe(load_recipe(few, ("classifier.arms=[qa]",)), data, recipe.parent)


def rows_of(recipe: Path, *overrides: str) -> tuple[Recipe, LabelledData]:
    """A recipe with 120 rows, 105 of them to train on."""
    rows = [(f"{WORDS[label]} {n}", label) for n in range(40) for label in LABELS]
    write_csv(recipe.parent / "rows.csv", rows)
    found = load_recipe(recipe, (f"data.train={recipe.parent}/rows.csv", *overrides))
    return found, load_labelled(found.data, found.seed)


def test_the_rows_of_a_pilot_are_training_rows_apart_from_each_other(recipe: Path, tmp_path: Path) -> None:
    whole, data = rows_of(recipe)
    write_pilot_rows(data, tmp_path / "pilot", 40, whole.seed)
    short = pilot_recipe(whole, data, tmp_path / "pilot")
    drawn = load_labelled(short.data, short.seed)
    assert [len(part) for part in (drawn.train, drawn.validation, drawn.test)] == [40, 6, 65]
    assert drawn.labels == data.labels
    texts = [{row.text for row in part} for part in (drawn.train, drawn.test, drawn.validation, data.test)]
    assert texts[0] | texts[1] == {row.text for row in data.train}
    assert not texts[0] & texts[1]
    assert not (texts[0] | texts[1] | texts[2]) & texts[3], "the test rows stay unseen"
    assert texts[2] <= {row.text for row in data.validation}
    before = (tmp_path / "pilot/train.jsonl").read_bytes()
    write_pilot_rows(data, tmp_path / "pilot", 40, whole.seed)
    assert (tmp_path / "pilot/train.jsonl").read_bytes() == before


def test_a_pilot_learns_from_the_own_reasonings_of_the_whole_run(recipe: Path, tmp_path: Path) -> None:
    """Of a few own reasonings among many rows it drew next to none, and R-Gen had nothing to learn from."""
    _, data = rows_of(recipe)
    explained = [replace(row, reasoning="they smile" if n % 15 == 0 else None) for n, row in enumerate(data.train)]
    write_pilot_rows(replace(data, train=tuple(explained)), tmp_path, 40, 0)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (len(lines), sum(bool(line["reasoning"]) for line in lines)) == (40, 7)
    assert len({line["text"] for line in lines}) == 40


@pytest.mark.parametrize(
    ("given", "arms", "epochs"),
    [
        ((), ("qa", "qra", "qra-scrambled"), 5),
        (("classifier.arms=[qa, qar]", "classifier.epochs=9"), ("qa", "qar"), 9),
        (("classifier.arms=[qra-words, qra]", "classifier.epochs=null", "classifier.iters=7"), None, 5),
    ],
)
def test_a_pilot_has_few_arms_one_seed_and_enough_passes(
    recipe: Path, given: tuple[str, ...], arms: tuple[str, ...] | None, epochs: float
) -> None:
    whole, data = rows_of(recipe, "classifier.seeds=[4, 5, 6]", *given)
    options = pilot_recipe(whole, data, recipe.parent).classifier
    assert options.arms == (arms or ("qa", "qra", "qra-scrambled"))
    assert (options.seeds, options.epochs, options.iters, options.learning_curve) == ((4,), epochs, None, "qa")


def test_a_second_pilot_that_is_refused_leaves_the_rows_of_the_first(rir: Run, recipe: Path, tmp_path: Path) -> None:
    """It wrote its own rows, was refused, and the first pilot ended with results of rows that were no longer there."""
    whole, data = rows_of(recipe)
    folder = RunDir(tmp_path / "runs/small-pilot")
    write_pilot_rows(data, folder.pilot_rows, 40, whole.seed)
    before = {path.name: path.read_bytes() for path in folder.pilot_rows.iterdir()}
    with RunLock(folder.folder):
        second = rir("pilot", str(recipe), "--rows", "50")
    assert (second.code, "Another process is writing" in second.err) == (2, True), second.err
    assert {path.name: path.read_bytes() for path in folder.pilot_rows.iterdir()} == before


@pytest.mark.heavy
def test_a_pilot_is_a_run_of_its_own_that_resumes(rir: Run, recipe: Path, tmp_path: Path) -> None:
    rows_of(recipe)
    command = ("pilot", str(recipe), "--rows", "40", "-s", "evaluate.batch_size=16")
    first = rir(*command, "--json")
    assert first.code == 0, first.err
    found, folder = json.loads(first.out), tmp_path / "runs/small-pilot"
    assert found["accuracy"].keys() == {"qa", "qra", "qra-scrambled", "majority", "tf-idf", "untuned"}
    assert found["cost"].startswith("The whole run takes about ")
    assert any(line.startswith("From 20 to 40 training rows, qa changed by") for line in found["signals"])
    assert not (tmp_path / "runs/small").exists(), "the run itself has not begun"
    done = {path: path.read_bytes() for path in folder.rglob("done.json")}
    assert len(done) >= 8
    assert any(line.startswith("Mutual information of reasoning and text") for line in found["signals"])
    again = rir(*command)
    assert {path: path.read_bytes() for path in done} == done
    assert found["text"] in again.out
    assert again.err.splitlines()[-1].endswith(f" run {recipe} -s evaluate.batch_size=16")


def test_a_pilot_is_not_taken_for_the_newest_run_where_there_is_another(tmp_path: Path) -> None:
    """After `pilot`, `classify` answered with its classifier of few rows."""
    recipe = Recipe()
    RunDir(tmp_path / "mine").save_recipe(recipe)
    pilot = RunDir(tmp_path / "mine-pilot")
    pilot.save_recipe(recipe)
    pilot.pilot_rows.mkdir()
    os.utime(tmp_path / "mine/recipe.yaml", (1, 1))
    newest = newest_run(tmp_path)
    assert newest is not None
    assert newest.name == "mine"
    shutil.rmtree(tmp_path / "mine")
    assert newest_run(tmp_path) is not None
