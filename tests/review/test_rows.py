"""Which rows are worth a look, and what is said of each."""

from __future__ import annotations

from pathlib import Path

from review_runs import make_run, write_results

from rir_mlx.data.loading import load_labelled
from rir_mlx.review.rows import ReviewRows
from rir_mlx.types import ReviewFilter


def ids(rows: ReviewRows, wanted: ReviewFilter) -> list[str]:
    return [found.row.id for found in rows.rows if found.passes(wanted)]


def test_rows_are_found_by_what_is_wrong_with_them_and_the_surest_contradiction_comes_first(tmp_path: Path) -> None:
    table = "text,label\n" + "".join(f"hooray {n},joy\nalas {n},sadness\n" for n in range(12))
    run, recipe = make_run(tmp_path, table + "same,joy\nSame ,sadness\ncopy,joy\ncopy,joy\n")
    data = load_labelled(recipe.data, recipe.seed)
    [wrong, unsure, *_], [other, *_] = data.test, data.validation
    turned = {"joy": "sadness", "sadness": "joy"}
    shares = {
        wrong.id: {turned[wrong.label]: 0.95, wrong.label: 0.05},
        unsure.id: {unsure.label: 0.55, turned[unsure.label]: 0.45},
        other.id: {turned[other.label]: 0.7, other.label: 0.3},
    }
    write_results(run, data, shares)
    rows = ReviewRows(run, recipe, "qra")
    assert ids(rows, "disagree") == [wrong.id, other.id]
    assert ids(rows, "unsure") == [unsure.id]
    assert ids(rows, "rejected") == [data.train[0].id]
    same = {row.text: row.id for row in (*data.train, *data.validation, *data.test)}
    assert set(ids(rows, "conflicts")) == {same["same"], same["Same "]}
    assert len(ids(rows, "duplicates")) == 4
    worth = [found.worth for found in rows.rows]
    assert worth == sorted(worth, reverse=True)
    assert rows.rows[0].row.id == wrong.id
    assert len(rows.rows) == 28
    assert not rows.changed


def test_no_prediction_is_shown_of_a_row_that_the_classifier_learned(tmp_path: Path) -> None:
    run, recipe = make_run(tmp_path)
    write_results(run, load_labelled(recipe.data, recipe.seed), {})
    rows = ReviewRows(run, recipe, "qra")
    assert {found.part for found in rows.rows if found.seen is not None} == {"validation", "test"}
    assert all(found.seen is None for found in rows.rows if found.part == "train")


def test_a_table_that_changed_since_is_told_and_its_files_are_not_mixed_up(tmp_path: Path) -> None:
    run, recipe = make_run(tmp_path)
    write_results(run, load_labelled(recipe.data, recipe.seed), {})
    lines = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "rows.csv").write_text(lines[0] + "new,joy,0\n" + "".join(lines[1:]), encoding="utf-8")
    rows = ReviewRows(run, recipe, "qra")
    assert rows.changed
    assert rows.unknown > 0
    assert rows["train:2"].row.text == "new"
    assert all(found.reasoning in (None, f"because {found.row.text}") for found in rows.rows)


def test_a_run_that_was_not_evaluated_can_be_reviewed(tmp_path: Path) -> None:
    run, recipe = make_run(tmp_path)
    rows = ReviewRows(run, recipe, "qra")
    assert len(rows.rows) == 24
    assert rows.counts(["all", "disagree", "rejected"]) == {"all": 24, "disagree": 0, "rejected": 0}
