"""The review over HTTP, without its HTTP: pages while rows leave them, and tables that change under the reviewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from review_runs import make_run, write_results

from rir_mlx.data.loading import load_labelled
from rir_mlx.errors import UserError
from rir_mlx.prompting.codec import Codec
from rir_mlx.serving.http import Refused
from rir_mlx.serving.workbench.reviewing import DecideRequest, Reviewing, RowRequest, RowsRequest, UndoRequest

pytest.importorskip("starlette")


@pytest.fixture
def reviewing(tmp_path: Path, codec: Codec) -> Reviewing:
    from served_models import fake_classifier, served_run

    run, recipe = make_run(tmp_path)
    write_results(run, load_labelled(recipe.data, recipe.seed), {})
    return Reviewing(served_run(run, recipe, fake_classifier(codec)))


def seen(reviewing: Reviewing, row: str) -> dict[str, Any]:
    found = reviewing.row(RowRequest(id=row))
    return {"row": row, "seen": found["version"], "digest": found["digest"]}


def decided(reviewing: Reviewing, row: str) -> dict[str, Any]:
    label = reviewing.row(RowRequest(id=row))["label"]
    return reviewing.decide(DecideRequest(**seen(reviewing, row), action="accept", label=label))


def add_a_row(folder: Path) -> None:
    """Every other row gets the id of the one before it."""
    table = (folder / "rows.csv").read_text(encoding="utf-8")
    (folder / "rows.csv").write_text(table.replace("note\n", "note\nnew,joy,0\n"), encoding="utf-8")


def test_every_row_is_met_once_while_decided_rows_leave_the_list(reviewing: Reviewing) -> None:
    """By their number every second page would be left out: the rows behind a page move up as its rows are decided."""
    met, after = list[str](), None
    while rows := reviewing.page(RowsRequest(state="open", limit=5, after=after))["rows"]:
        met += [row["id"] for row in rows]
        after = met[-1]
        for row in rows:
            decided(reviewing, row["id"])
    assert len(met) == len(set(met)) == 24
    assert reviewing.page(RowsRequest(state="done", limit=5, after=met[4]))["offset"] == 5


def test_a_decision_is_about_the_row_that_was_seen(reviewing: Reviewing, tmp_path: Path) -> None:
    before = seen(reviewing, "train:3")
    add_a_row(tmp_path)
    for refused in (
        lambda: reviewing.decide(DecideRequest(**before, action="accept", label="joy")),
        lambda: reviewing.undo(UndoRequest(**before)),
    ):
        with pytest.raises(Refused) as error:
            refused()
        assert error.value.status == 409
    assert reviewing.log.current() == []


def test_a_decided_row_that_moved_is_decided_and_can_be_taken_back(reviewing: Reviewing, tmp_path: Path) -> None:
    decided(reviewing, "train:3")
    add_a_row(tmp_path)
    done = reviewing.page(RowsRequest(state="done"))["rows"]
    assert [row["id"] for row in done] == ["train:4"]
    assert reviewing.overview()["decided"] == 1
    old = seen(reviewing, "train:4")
    decided(reviewing, "train:4")
    with pytest.raises(Refused, match="Somebody else"):
        reviewing.undo(UndoRequest(**old))
    for left in (True, False):
        back = reviewing.undo(UndoRequest(**seen(reviewing, "train:4")))
        assert (back["decided"] is not None) is left


def test_a_table_named_by_a_pattern_is_read_again_when_it_changes(tmp_path: Path, codec: Codec) -> None:
    from served_models import fake_classifier, served_run

    run, recipe = make_run(tmp_path, train=str(tmp_path / "row*.csv"))
    reviewing = Reviewing(served_run(run, recipe, fake_classifier(codec)))
    assert reviewing.overview()["counts"]["all"] == 24
    add_a_row(tmp_path)
    assert reviewing.overview()["counts"]["all"] == 25


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "train:2"}', "line 1, cannot be read: it has no 'text'"),
        ('{"id": "a", "text": "b", "label": "joy", "predicted": "joy"}', "it has no 'probabilities'"),
        ('{"id": "a", "text": "b", "label": "joy", "predicted": "joy", "probabilities": {}}', "no object of numbers"),
        ('{"id": [], "text": "b"}', "its id is no string"),
    ],
)
def test_a_damaged_file_of_the_run_is_named_with_its_line(reviewing: Reviewing, line: str, message: str) -> None:
    reviewing.source.run.predictions("qra").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        reviewing.rows()
    assert message in str(error.value)
