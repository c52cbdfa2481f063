"""`rir-mlx review`: what was decided, and new tables, in words and for programs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from commands import Run
from review_runs import make_run

from rir_mlx.data.loading import load_labelled
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.recipe.schema import Recipe
from rir_mlx.review.decisions import Decision, ReviewLog
from rir_mlx.storage.layout import RunDir


@pytest.fixture
def reviewed(rir: Run, tmp_path: Path) -> tuple[RunDir, Recipe]:
    """A run of which one row was changed, one accepted and one skipped; two more of its decisions are lost."""
    run, recipe = make_run(tmp_path)
    data, log = load_labelled(recipe.data, recipe.seed), ReviewLog(run.review)
    first, second, third = data.train[:3]
    other = "joy" if first.label == "sadness" else "sadness"
    log.add(Decision(first.id, first.text, first.label, "edit", other, "because"), 0)
    log.add(Decision(second.id, second.text, second.label, "accept", second.label, "so be it"), 0)
    log.add(Decision(third.id, third.text, third.label, "skip", third.label), 0)
    log.add(Decision("train:900", "gone", "joy", "edit", "sadness", "lost"), 0)
    with run.review.open("ab") as file:
        file.write(b"not a decision\n")
    return run, recipe


def test_it_says_what_was_decided_and_what_comes_next(rir: Run, reviewed: tuple[RunDir, Recipe]) -> None:
    result = rir("review")
    assert result.code == 0
    assert result.out == ("4 rows of runs/small are decided: 1 accepted, 2 edited, 1 skipped; 2 get another label.\n")
    assert "1 lines of runs/small/review.jsonl cannot be read" in result.err
    assert "review runs/small --apply -o NEW.csv" in result.err
    counts = {"accepted": 1, "edited": 2, "skipped": 1, "labels": 2, "unreadable": 1}
    assert json.loads(rir("review", "runs/small", "--json").out) == counts


def test_the_command_that_it_prints_runs_on_the_reviewed_rows(
    rir: Run, reviewed: tuple[RunDir, Recipe], tmp_path: Path
) -> None:
    result = rir("review", "--apply", "-o", "new.csv")
    assert result.code == 0
    assert "1 rows have another label, and 2 a reviewed reasoning (column reasoning)." in result.out
    assert "1 decisions are not applied" in result.err
    assert "train:900: 'gone'" in result.err
    assert (tmp_path / "new-test.csv").is_file()
    found = re.search(r"Next: rir-mlx run (.*)", result.err)
    assert found is not None
    recipe, *settings = shlex.split(found[1])
    after = load_recipe(Path(recipe), settings[1::2])
    assert after.name == "small-reviewed"
    data, before = load_labelled(after.data, after.seed), load_labelled(reviewed[1].data, reviewed[1].seed)
    assert [row.reasoning for row in data.train[:3]] == ["because", "so be it", None]
    assert [row.text for row in data.test] == [row.text for row in before.test]
    again = rir("review", "--apply", "-o", "new.csv")
    assert again.code == 2
    assert "new.csv already exists" in again.err
    values = json.loads(rir("review", "--apply", "-o", "other.csv", "--json").out)
    assert (values["files"]["train"], values["labels"], len(values["lost"])) == ("other.csv", 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--apply",), "--apply and --output go together"),
        (("-o", "new.csv"), "--output names what --apply writes"),
        (("runs/none",), "runs/none"),
        (("--runs", "nowhere"), "nowhere holds no run"),
    ],
)
def test_mistakes_are_told(rir: Run, reviewed: object, arguments: tuple[str, ...], message: str) -> None:
    result = rir("review", *arguments)
    assert result.code == 2
    assert message in result.err


def test_a_run_that_nobody_looked_at_points_to_its_page(rir: Run, tmp_path: Path) -> None:
    make_run(tmp_path)
    result = rir("review", "runs/small")
    assert result.out.startswith("0 rows of runs/small are decided")
    assert "serve runs/small --open" in result.err
    assert rir("review", "runs/small", "--apply", "-o", "new.csv").code == 2
