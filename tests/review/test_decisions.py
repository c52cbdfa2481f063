"""Decisions about rows: none is lost, whoever writes, and each is found again in a changed table."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from rir_mlx.data.rows import Row
from rir_mlx.errors import UserError
from rir_mlx.review.decisions import Decision, Outdated, ReviewLog, RowIndex, RowKey
from rir_mlx.storage import shared_log
from rir_mlx.types import ReviewAction

HOORAY = RowKey("train:2", "hooray")


def decision(row: str = "train:2", label: str = "joy", action: ReviewAction = "edit", text: str = "hooray") -> Decision:
    return Decision(row, text, "sadness", action, label, "because")


def test_a_decision_is_on_disk_at_once_and_the_latest_one_counts(tmp_path: Path) -> None:
    log = ReviewLog(tmp_path / "review.jsonl")
    assert log.add(decision(), 0) == 1
    assert ReviewLog(tmp_path / "review.jsonl").current() == [decision()]
    log.add(decision(label="anger"), 1)
    assert log.current()[-1].label == "anger"
    assert log.undo(HOORAY, 2) == 3
    assert log.current()[-1].label == "joy"
    log.undo(HOORAY, 3)
    assert log.current() == []
    with pytest.raises(UserError, match="no decision"):
        log.undo(HOORAY, 4)
    assert len((tmp_path / "review.jsonl").read_text(encoding="utf-8").splitlines()) == 4


def test_who_has_not_seen_the_latest_decision_changes_nothing(tmp_path: Path) -> None:
    """Two tabs, or two servers, show the same row: the second save would silently replace the first."""
    one, other = ReviewLog(tmp_path / "review.jsonl"), ReviewLog(tmp_path / "review.jsonl")
    assert other.current() == []
    one.add(decision(), 0)
    with pytest.raises(Outdated):
        other.add(decision(label="anger"), 0)
    assert other.current() == one.current() == [decision()]
    other.add(decision(label="anger"), other.version(HOORAY))
    assert one.current()[-1].label == "anger"


def _add_many(path: Path, number: int) -> None:
    log = ReviewLog(path)
    for row in range(50):
        log.add(decision(f"train:{number}:{row}", text="x" * 5000), 0)


def test_servers_that_write_at_the_same_time_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits too long for the others is refused: on a busy machine, these may wait as long as the test does."""
    monkeypatch.setattr(shared_log, "_PATIENCE", 60.0)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add_many, args=(tmp_path / "review.jsonl", number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    log = ReviewLog(tmp_path / "review.jsonl")
    assert len(log.current()) == 150
    assert log.unreadable == 0


def test_a_line_torn_by_a_kill_is_told_apart_and_the_others_count(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    log = ReviewLog(path)
    log.add(decision(), 0)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    assert ReviewLog(path).current() == [decision()]
    ReviewLog(path).add(decision("train:3"), 0)
    assert [found.row for found in ReviewLog(path).current()] == ["train:2", "train:3"]
    assert path.read_bytes().startswith(whole)
    assert len(path.read_bytes().splitlines()) == 2


def test_lines_of_another_kind_are_counted_and_left(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    lines = [
        "no json",
        "[" * 100_000,
        '["a"]',
        '{"row": 3}',
        '{"row": "train:2", "action": "delete"}',
        '{"row": "a", "reasoning": 1}',
    ]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    log = ReviewLog(path)
    log.add(decision(), 0)
    assert log.current() == [decision()]
    assert log.unreadable == len(lines)


def test_a_log_that_was_deleted_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    log = ReviewLog(path)
    log.add(decision(), 0)
    path.unlink()
    assert log.current() == []
    assert log.version(HOORAY) == 0
    log.add(decision("train:9"), 0)
    assert log.current() == [decision("train:9")]


def test_decisions_find_their_rows_in_a_changed_table() -> None:
    rows = [
        Row("hooray", "sadness", id="train:2"),
        Row("moved", "sadness", id="train:3"),
        Row("twice", "sadness", id="train:4"),
        Row("twice", "sadness", id="train:5"),
        Row("relabelled", "fear", id="train:6"),
    ]
    here, moved = decision(), decision("train:8", text="moved")
    lost = [
        decision("train:9", text="twice"),
        decision("train:6", text="relabelled"),
        decision("train:7", text="gone"),
    ]
    found = RowIndex(rows).match([here, moved, *lost])
    assert found.by_row == {"train:2": here, "train:3": moved}
    assert {entry.text for entry in found.lost} == {entry.text for entry in lost}
    assert found.moved == 1


def test_another_row_that_got_the_id_is_decided_beside_the_first(tmp_path: Path) -> None:
    """A row is inserted, and the text of `train:2` is another one: the decisions are about two rows."""
    log = ReviewLog(tmp_path / "review.jsonl")
    first, other = decision(), decision(text="inserted")
    log.add(first, 0)
    assert log.version(other.key) == 0
    log.add(other, 0)
    assert log.current() == [first, other]
    log.undo(other.key, 1)
    assert ReviewLog(tmp_path / "review.jsonl").current() == [first]


def test_lines_of_undo_without_a_text_are_about_the_row_of_that_id_decided_last(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    log = ReviewLog(path)
    log.add(decision(), 0)
    log.add(decision(text="inserted"), 0)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"row": "train:2", "action": "undo"}\n')
    assert log.current() == [decision()]


def test_the_latest_of_several_decisions_about_a_row_counts_wherever_the_row_was(tmp_path: Path) -> None:
    log, rows = ReviewLog(tmp_path / "review.jsonl"), [Row("hooray", "sadness", id="train:4")]
    older, newer = decision(), decision("train:3", label="anger")
    for place, made in enumerate((older, newer)):
        log.add(made, place, anywhere=True)
    with pytest.raises(Outdated):
        log.add(decision("train:4"), 0, anywhere=True)
    index = RowIndex(rows)
    assert index.match(log.current()) == ({"train:4": newer}, [], 1)
    log.undo(newer.key, 2, anywhere=True)
    assert index.match(log.current()) == ({"train:4": older}, [], 1)


def test_a_log_that_cannot_be_read_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "review.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        ReviewLog(tmp_path / "review.jsonl").current()
