"""From decisions to tables that the next run trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from review_runs import TABLE, lines_of, make_run

from rir_mlx.data.loading import LabelledData, load_labelled
from rir_mlx.errors import UserError
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.recipe.schema import Recipe
from rir_mlx.review.decisions import Decision, ReviewLog
from rir_mlx.review.new_tables import NewTables, write_new_tables
from rir_mlx.review.rows import ReviewRows
from rir_mlx.storage.layout import RunDir
from rir_mlx.types import ReviewAction

HOSTILE = '</script>, "quoted"\nand <img onerror> – ö'


def decide(run: RunDir, row: object, label: str, reasoning: str | None = None, action: ReviewAction = "edit") -> None:
    text, was, place = (getattr(row, name) for name in ("text", "label", "id"))
    ReviewLog(run.review).add(Decision(place, text, was, action, label, reasoning), 0)


def next_data(recipe: Recipe, written: NewTables) -> LabelledData:
    """The rows of a run on the new tables, with the settings that the command prints."""
    overrides = [f"{key}={value}" for key, value in written.settings.items()]
    return load_labelled(load_recipe(recipe, overrides).data, recipe.seed)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_next_run_learns_from_reviewed_rows_and_is_measured_on_the_same_test_rows(tmp_path: Path, end: str) -> None:
    run, recipe = make_run(tmp_path, "\ufeff" + TABLE.replace("\n", end))
    before = load_labelled(recipe.data, recipe.seed)
    train, other, tested = before.train[0], before.train[1], before.test[0]
    decide(run, train, "joy" if train.label == "sadness" else "sadness", HOSTILE)
    decide(run, other, other.label, "It says so.", "accept")
    decide(run, tested, "sadness" if tested.label == "joy" else "joy", "not for a test row")
    decide(run, before.train[2], "joy", None, "skip")
    original = (tmp_path / "rows.csv").read_bytes()
    written = write_new_tables(run, recipe, tmp_path / "new.csv")
    assert (tmp_path / "rows.csv").read_bytes() == original
    assert (written.labels, written.reasonings, written.test_reasonings) == (2, 2, 1)
    after = next_data(recipe, written)
    for part in ("train", "validation", "test"):
        old, new = getattr(before, part), getattr(after, part)
        assert [row.text for row in old] == [row.text for row in new]
        changed = [place for place, (one, two) in enumerate(zip(old, new, strict=True)) if one.label != two.label]
        assert changed == ([0] if part != "validation" else [])
    assert [row.reasoning for row in after.train[:3]] == [HOSTILE, "It says so.", None]
    assert all(row.reasoning is None for row in (*after.validation, *after.test))
    lines = (tmp_path / "new.csv").read_text(encoding="utf-8-sig")
    assert f'"{before.train[3].text}",{before.train[3].label}' in lines
    assert (tmp_path / "new.csv").read_bytes().startswith(b"\xef\xbb\xbftext,label,note,reasoning")


def test_draws_by_label_do_not_lose_reviewed_rows_or_change_what_is_measured(tmp_path: Path) -> None:
    """A run that used 8 of 14 training rows and 4 of 10 test rows: with a corrected label, both draws change."""
    (tmp_path / "test.csv").write_text(TABLE.replace("said", "wrote"), encoding="utf-8")
    run, recipe = make_run(tmp_path, test=str(tmp_path / "test.csv"), test_size=4, max_samples=8)
    before = load_labelled(recipe.data, recipe.seed)
    for row in (*before.train[:2], before.test[0], before.validation[0]):
        decide(run, row, "joy" if row.label == "sadness" else "sadness", None if row in before.test else "because")
    after = next_data(recipe, written := write_new_tables(run, recipe, tmp_path / "new.csv"))
    for part in ("train", "validation", "test"):
        assert [row.text for row in getattr(before, part)] == [row.text for row in getattr(after, part)]
    assert [row.reasoning for row in after.train[:2]] == ["because", "because"]
    assert written.unused == 48 - 8 - 4 - 4


def test_reviewed_reasonings_stand_in_the_column_that_the_recipe_names(tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"words {n}", "label": n % 2, "why": "mine" if n == 0 else None} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run, recipe = make_run(tmp_path, train=str(tmp_path / "rows.jsonl"), reasoning_column="why")
    before = load_labelled(recipe.data, recipe.seed)
    decide(run, before.train[1], "1" if before.train[1].label == "0" else "0", "reviewed")
    written = write_new_tables(run, recipe, tmp_path / "new.jsonl")
    found = {row["id"]: row for part in written.files.values() for row in lines_of(part)}
    assert len(found) == 20
    number = int(before.train[1].text.split()[1])
    assert found.pop(number) == rows[number] | {"label": 1 - rows[number]["label"], "why": "reviewed"}
    assert all(row == rows[place] for place, row in found.items())
    assert next_data(recipe, written).train[1].reasoning == "reviewed"


@pytest.mark.parametrize("keys", [{}, {"label_separator": ";"}, {"soft_labels": True}], ids=["one", "several", "soft"])
def test_a_label_that_no_row_has_any_more_is_named_no_more(tmp_path: Path, keys: dict[str, object]) -> None:
    """A slip that was corrected in the review stayed an answer of the next run, which no row teaches."""
    labels = {"joy": "it went: well", "sadness": "", "joyy": "", "never": "", "none": ""}
    several = {"no_label": "none"} if keys else {}
    run, recipe = make_run(tmp_path, TABLE + '"hip, said no one",joyy,0\n', labels=labels, **keys, **several)
    before = load_labelled(recipe.data, recipe.seed)
    [slip] = [row for part in (before.train, before.validation, before.test) for row in part if row.label == "joyy"]
    decide(run, slip, "joy")
    written = write_new_tables(run, recipe, tmp_path / "new.csv")
    assert written.gone == ["joyy"]
    after = next_data(recipe, written)
    assert after.labels == {name: about for name, about in labels.items() if name != "joyy"}
    assert not any("joyy" in note for note in after.notes)


def test_a_label_that_other_rows_still_have_stays_named(tmp_path: Path) -> None:
    run, recipe = make_run(tmp_path, labels={"joy": "", "sadness": ""})
    before = load_labelled(recipe.data, recipe.seed)
    for row in before.train:
        decide(run, row, "joy")
    written = write_new_tables(run, recipe, tmp_path / "new.csv")
    assert (written.gone, "data.labels" in written.settings) == ([], False)


def test_rows_of_several_files_become_one_plain_table(tmp_path: Path) -> None:
    for name in "ab":
        text = TABLE.replace("said", name)
        (tmp_path / f"part-{name}.csv").write_text(text, encoding="utf-8")
    run, recipe = make_run(tmp_path, train=str(tmp_path / "part-*.csv"))
    before = load_labelled(recipe.data, recipe.seed)
    decide(run, before.train[0], before.train[0].label, "why not")
    after = next_data(recipe, written := write_new_tables(run, recipe, tmp_path / "new.tsv"))
    assert [(row.text, row.label) for row in after.train] == [(row.text, row.label) for row in before.train]
    assert after.train[0].reasoning == "why not"
    assert set(written.files) == {"train", "validation", "test"}


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    run, recipe = make_run(tmp_path)
    with pytest.raises(UserError, match="Nothing was decided"):
        write_new_tables(run, recipe, tmp_path / "new.csv")
    decide(run, load_labelled(recipe.data, recipe.seed).train[0], "joy")
    (tmp_path / "new-test.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"new-test\.csv already exists"):
        write_new_tables(run, recipe, tmp_path / "new.csv")
    assert (tmp_path / "new-test.csv").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "new.csv").exists()
    for name, message in (("new.jsonl", r"new\.csv"), ("no/new.csv", "no folder"), ("rows.csv", "already exists")):
        with pytest.raises(UserError) as refused:
            write_new_tables(run, recipe, tmp_path / name)
        assert message.replace("\\", "") in str(refused.value) + str(refused.value.hint)


def test_tables_of_which_a_kill_left_the_first_are_completed(tmp_path: Path) -> None:
    """The same command was refused: the table of the training rows was there already."""
    run, recipe = make_run(tmp_path)
    decide(run, load_labelled(recipe.data, recipe.seed).train[0], "joy")
    whole = write_new_tables(run, recipe, tmp_path / "whole.csv")
    (tmp_path / "new.csv").write_bytes((tmp_path / "whole.csv").read_bytes())
    written = write_new_tables(run, recipe, tmp_path / "new.csv")
    for part, path in written.files.items():
        assert path.read_bytes() == whole.files[part].read_bytes()
    assert len(written.files) == 3


def test_decisions_about_rows_that_changed_are_told_and_not_applied(tmp_path: Path) -> None:
    run, recipe = make_run(tmp_path, val_size=0, test_size=0)
    before = load_labelled(recipe.data, recipe.seed)
    decide(run, before.train[0], "joy", "kept")
    decide(run, before.train[1], "joy", "lost")
    table = (tmp_path / "rows.csv").read_text(encoding="utf-8")
    table = table.replace(before.train[1].text, "another text").replace(
        "text,label,note\n", "text,label,note\nx,joy,0\n"
    )
    (tmp_path / "rows.csv").write_text(table, encoding="utf-8")
    written = write_new_tables(run, recipe, tmp_path / "new.csv")
    assert [decision.reasoning for decision in written.lost] == ["lost"]
    assert written.moved == 1
    assert "kept" in (tmp_path / "new.csv").read_text(encoding="utf-8")


def pairs(data: LabelledData) -> list[list[str]]:
    return [[row.text for row in getattr(data, part)] for part in ("train", "validation", "test")]


def test_a_source_of_more_rows_than_are_drawn_keeps_the_rows_that_were_measured(tmp_path: Path) -> None:
    """A corrected label changes a stratified draw: most of the test rows would be other ones."""
    for name in ("valid", "tested"):
        (tmp_path / f"{name}.csv").write_text(TABLE.replace("said", name), encoding="utf-8")
    other = {"validation": str(tmp_path / "valid.csv"), "test": str(tmp_path / "tested.csv")}
    run, recipe = make_run(tmp_path, max_samples=10, **other)
    before = load_labelled(recipe.data, recipe.seed)
    for row in (before.train[0], before.validation[0], before.test[0]):
        decide(run, row, "joy" if row.label == "sadness" else "sadness")
    written = write_new_tables(run, recipe, tmp_path / "new.csv")
    assert written.unused == 14 + 20 + 18
    assert pairs(next_data(recipe, written)) == pairs(before)


def test_a_reasoning_that_was_deleted_is_gone_from_the_new_table(tmp_path: Path) -> None:
    rows = [{"text": f"words {n}", "label": "ab"[n % 2], "why": f"mine {n}"} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = "".join(f"{row['text']},{row['label']},{row['why']}\n" for row in rows)
    (tmp_path / "part-a.csv").write_text(f"text,label,why\n{lines}", encoding="utf-8")
    (tmp_path / "part-b.csv").write_text(f"text,label,why\nlast,a,\n{lines.replace('words', 'more')}", encoding="utf-8")
    for name, suffix in (("rows.jsonl", "jsonl"), ("part-a.csv", "csv"), ("part-*.csv", "csv")):
        folder = tmp_path / name.replace("*", "all")[:-4]
        folder.mkdir()
        run, recipe = make_run(folder, train=str(tmp_path / name), reasoning_column="why", val_size=0, test_size=0)
        first, second = load_labelled(recipe.data, recipe.seed).train[:2]
        decide(run, first, first.label, None, "accept")
        written = write_new_tables(run, recipe, folder / f"new.{suffix}")
        after = next_data(recipe, written).train
        assert (written.cleared, written.reasonings) == (1, 0)
        assert (after[0].reasoning, after[1].reasoning) == (None, second.reasoning)


def test_the_next_run_reads_what_was_written_whatever_marks_the_source_has(tmp_path: Path) -> None:
    """A reasoning with the delimiter in it breaks a row where marks belong to the texts; a plain table has other marks
    than its sources."""
    lines = "".join(f'"say" {n};{"ab"[n % 2]};{n}\n' for n in range(20)) + "one;two;three;a\n"
    for name in "ab":
        (tmp_path / f"part-{name}.csv").write_text(f"text;label;n\n{lines}", encoding="utf-8")
    shared = {"delimiter": ";", "quotes": False, "encoding": "cp1252", "on_bad_rows": "skip"}
    for name, number in (("part-a.csv", 20), ("part-*.csv", 40)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run, recipe = make_run(folder, train=str(tmp_path / name), val_size=0, test_size=0, **shared)
        before = load_labelled(recipe.data, recipe.seed)
        decide(run, before.train[0], "b", HOSTILE + "; and more")
        written = write_new_tables(run, recipe, folder / "new.csv")
        after = next_data(recipe, written)
        assert pairs(after) == pairs(before)
        assert len(after.train) == number
        assert (after.train[0].label, after.train[0].reasoning) == ("b", HOSTILE + "; and more")
        assert set(after.labels) == {"a", "b"}


def test_rows_that_the_run_skipped_do_not_come_in_with_the_new_column(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, and a row with a cell too many, which a new column would make a whole one."""
    run, recipe = make_run(tmp_path, val_size=0, test_size=0, on_bad_rows="skip")
    bad = b"caf\xe9,joy,0\nhooray,oops,joy,0\n"
    (tmp_path / "rows.csv").write_bytes("text,label,note\nü,joy,1\n".encode() + bad + TABLE.partition("\n")[2].encode())
    before = load_labelled(recipe.data, recipe.seed)
    decide(run, before.train[0], "sadness", "because")
    written = write_new_tables(run, recipe, tmp_path / "new.csv")
    assert written.unused == 2
    after = next_data(recipe, written)
    assert (pairs(after), after.labels) == (pairs(before), before.labels)


def test_other_rows_of_a_json_file_stay_as_they_are(tmp_path: Path) -> None:
    lines = [f'{{"text": "words {n}",  "label": "{"ab"[n % 2]}", "n": 1.10, "half": "\\ud83d"}}' for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run, recipe = make_run(tmp_path, train=str(tmp_path / "rows.jsonl"), val_size=0, test_size=0)
    row = load_labelled(recipe.data, recipe.seed).train[0]
    decide(run, row, row.label, "because")
    write_new_tables(run, recipe, tmp_path / "new.jsonl")
    first, *others = (tmp_path / "new.jsonl").read_text(encoding="utf-8").splitlines()
    assert others == [f'{line[:-1]}, "reasoning": null}}' for line in lines[1:]]
    assert json.loads(first) == json.loads(lines[0]) | {"reasoning": "because"}


def test_a_folder_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, recipe = make_run(tmp_path)
    decide(run, load_labelled(recipe.data, recipe.seed).train[0], "joy")
    monkeypatch.chdir(tmp_path)
    for name in (".", "..", str(tmp_path)):
        with pytest.raises(UserError, match="is a folder"):
            write_new_tables(run, recipe, Path(name))


def test_a_plain_table_has_one_column_for_a_text_of_several(tmp_path: Path) -> None:
    for name, number in (("part-a", 0), ("part-b", 1), ("tested", 2)):
        lines = "".join(f"title {number},body {n},{'ab'[n % 2]}\n" for n in range(20))
        (tmp_path / f"{name}.csv").write_text(f"title,body,label\n{lines}", encoding="utf-8")
    train, tested = str(tmp_path / "part-*.csv"), str(tmp_path / "tested.csv")
    columns = ["title", "body"]
    run, recipe = make_run(tmp_path, train=train, test=tested, text_column=columns, val_size=0)
    before = load_labelled(recipe.data, recipe.seed)
    decide(run, before.train[0], "b", "because")
    after = next_data(recipe, write_new_tables(run, recipe, tmp_path / "new.csv"))
    assert pairs(after) == pairs(before)
    assert (after.train[0].label, after.train[0].reasoning) == ("b", "because")


@pytest.mark.parametrize(("soft", "no_label"), [(False, "none"), (True, "none"), (False, "None"), (True, "None")])
def test_a_column_for_each_label_becomes_one_column(tmp_path: Path, soft: bool, no_label: str) -> None:
    """`None` was then taken for a missing label: the key was to be set to null."""
    most = 3 if soft else 1
    marks = ((n % 2, min(most, (n + 1) % 3), min(most, n % 5)) for n in range(30))
    lines = "".join(f"row {n},{joy},{fear},{anger}\n" for n, (joy, fear, anger) in enumerate(marks))
    columns = ["joy", "fear", "anger"]
    keys = {"label_column": columns, "soft_labels": soft, "no_label": no_label, "test_size": 5, "val_size": 0}
    keys |= {"text_column": "words", "reasoning_column": None}
    run, recipe = make_run(tmp_path, f"words,joy,fear,anger\n{lines}", **keys)
    before = load_labelled(recipe.data, recipe.seed)
    decide(run, before.train[0], "fear" if soft else "fear, joy", "because")
    accepted = next(row for row in before.train[1:] if row.shares or not soft)  # which keeps its votes
    decide(run, accepted, accepted.label, None)
    after = next_data(recipe, write_new_tables(run, recipe, tmp_path / "new.csv"))
    assert pairs(after) == pairs(before)
    assert (after.train[0].label, after.train[0].reasoning) == ("fear" if soft else "fear, joy", "because")
    rest = [(row.label, row.shares) for row in before.train[1:] + before.test]
    assert [(row.label, row.shares) for row in after.train[1:] + after.test] == rest
    assert any(shares for _, shares in rest) == soft
    assert bool(after.combinations) != soft


@pytest.mark.parametrize("keys", [{"label_column": ["joy", "fear"]}, {"label_column": "label", "label_separator": "+"}])
def test_a_row_may_be_the_first_that_is_corrected_to_no_label(tmp_path: Path, keys: dict[str, Any]) -> None:
    """The review offered `no_label` only where a row had it."""
    marks = (("1,0", "joy"), ("0,1", "fear"), ("1,1", "fear+joy"))
    lines = "".join(f"row {n},{','.join(marks[n % 3])}\n" for n in range(30))
    run, recipe = make_run(tmp_path, f"text,joy,fear,label\n{lines}", no_label="none", val_size=0, **keys)
    before = load_labelled(recipe.data, recipe.seed)
    assert ReviewRows(run, recipe, "qra").labels == ["fear", "joy", "fear, joy", "none"]
    decide(run, before.train[0], "none")
    after = next_data(recipe, write_new_tables(run, recipe, tmp_path / "new.csv"))
    assert pairs(after) == pairs(before)
    assert [row.label for row in (*after.train, *after.test)].count("none") == 1
