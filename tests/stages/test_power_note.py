"""What a run can show at all, said before it."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import write_csv

from rir_mlx.backends import open_backend
from rir_mlx.data.loading import load_labelled
from rir_mlx.models.hub import resolve_model
from rir_mlx.progress import Silent
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.recipe.schema import ClassifierSection, Recipe
from rir_mlx.stages import Context, check, warn_about_data
from rir_mlx.stages.checking import power_note
from rir_mlx.storage.layout import RunDir
from rir_mlx.training.recipe_model import RecipeModel


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize(
    ("keys", "rows", "said"),
    [
        ({"seeds": (0, 1, 2), "arms": ("qa", "qra")}, 600, "two ways of training that differ by 11 points"),
        ({"seeds": (0, 1, 2), "arms": ("qa", "qra", "qar")}, 600, "two ways of training that differ by 14 points"),
        ({"seeds": (0,), "arms": ("qa", "qra", "qra-words")}, 600, "two classifiers that differ by 6 points"),
        (
            {"seeds": (0, 1), "arms": ("qa", "qra", "qar")},
            500,
            "With 500 test rows, two classifiers that differ by 7 points",
        ),
        ({"seeds": (0, 1)}, 500, "2 seeds cannot show a difference between ways of training: that takes 3 or more"),
        ({"arms": ("qa", "qra-words")}, 600, None),
        ({"arms": ("qra", "qar")}, 600, None),
        ({}, 0, None),
    ],
)
def test_the_difference_that_a_run_can_show_is_said_before_it(keys: dict[str, object], rows: int, said: str) -> None:
    """In `check`, and as `run` begins."""
    found = power_note(Recipe(classifier=ClassifierSection.model_validate(keys)), rows, rows)
    assert [said in note and "are told apart in 80 % of runs" in note for note in found] == ([True] if said else [])


def test_copies_of_training_rows_that_are_not_drawn_count(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` looked for copies among all training rows, and a run among those of `data.max_samples`."""
    monkeypatch.chdir(recipe.parent)
    rows = [(f"i feel {number} today", ("joy", "sadness")[number % 2]) for number in range(60)]
    write_csv(Path("rows.csv"), rows)
    write_csv(Path("test.csv"), rows[:40])
    keys = ["data.train=rows.csv", "data.test=test.csv", "data.val_size=0", "data.test_size=40", "data.max_samples=10"]
    loaded, notes = load_recipe(recipe, keys), Notes()
    model = RecipeModel(loaded, open_backend("fake"), resolve_model(loaded.model))
    warn_about_data(Context(RunDir(recipe.parent / "run"), model, notes))
    drawn = {row.text for row in load_labelled(loaded.data, loaded.seed).train}
    left = sum(text not in drawn for text, _ in rows[:40])
    assert 30 <= left < 40
    for said in (notes.said, check(loaded).notes):
        assert [note for note in said if f"With {left} clean test rows, two classifiers" in note]


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("40", "With 31 clean test rows, two classifiers that differ by 28 points are told apart in 80 % of runs."),
        ("9", "8 clean test rows can hardly tell two classifiers apart"),
    ],
)
def test_only_test_rows_that_will_be_compared_count(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, size: str, said: str
) -> None:
    """40 test rows of which 5 stand in train and 4 have two labels were said to show what 40 do; so they were by
    `check` where 9 of them are drawn."""
    monkeypatch.chdir(recipe.parent)
    leaked = [(f"i feel happy today {number}", "joy") for number in range(5)]
    twice = [(f"so unsure {number}", label) for number in range(2) for label in ("joy", "sadness")]
    write_csv(Path("test.csv"), [*leaked, *twice, *((f"only here {number}", "joy") for number in range(31))])
    loaded, notes = load_recipe(recipe, ["data.test=test.csv", "data.val_size=0", f"data.test_size={size}"]), Notes()
    model = RecipeModel(loaded, open_backend("fake"), resolve_model(loaded.model))
    warn_about_data(Context(RunDir(recipe.parent / "run"), model, notes))
    assert [line for line in notes.said if said in line]
    assert [note for note in check(loaded).notes if said in note]
