"""`rir-mlx init`: one command from a table to a recipe that runs."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import LABELS, WORDS, Run, write_csv
from rir_cli.starting.questions import _some_of, ask_columns

from rir_mlx.data.loading import load_labelled
from rir_mlx.guide import first_recipe
from rir_mlx.guide.first_recipe import look_at
from rir_mlx.prompting.arms import examples_of
from rir_mlx.recipe.loading import load_recipe


@pytest.fixture
def rows(rir: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A table in the working folder, and no hub."""
    monkeypatch.setattr("rir_mlx.hub_access.hub_answers", lambda: False)
    monkeypatch.setattr("rir_mlx.hub_access.cached_names", lambda kind: [])
    write_csv(Path("rows.csv"), [(f"{WORDS[label]} {n}", label) for n in range(30) for label in LABELS])
    return rir


def test_the_only_table_of_the_folder_becomes_a_recipe_without_a_question(rows: Run) -> None:
    result = rows("init", stdin="")
    assert result.code == 0, result.err
    assert "Text: text, because its name is usual for texts." in result.out
    assert "Label: label, because its name is usual for labels." in result.out
    assert "Model: builtin:tiny-llama, because" in result.out
    assert "nothing was asked and every guess stands, as with --yes" in result.err
    assert result.err.splitlines()[-1].endswith("run rows.yaml")
    assert load_recipe("rows.yaml").data.train.path == "rows.csv"
    assert rows("check", "rows.yaml").code == 0


def test_a_file_is_never_overwritten(rows: Run) -> None:
    Path("rows.yaml").write_text("mine", encoding="utf-8")
    result = rows("init", "--yes")
    assert (result.code, "rows.yaml exists" in result.err) == (2, True)
    assert Path("rows.yaml").read_text(encoding="utf-8") == "mine"
    assert rows("init", "--yes", "-o", "other.yaml").code == 0


def test_a_file_that_appears_while_init_asks_is_not_overwritten(rows: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was looked for before the questions alone."""
    look = first_recipe.look_at

    def meanwhile(*given: Any) -> Any:
        Path("rows.yaml").write_text("mine", encoding="utf-8")
        return look(*given)

    monkeypatch.setattr(first_recipe, "look_at", meanwhile)
    result = rows("init", "--yes")
    assert (result.code, "rows.yaml exists" in result.err) == (2, True), result.err
    assert Path("rows.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("header", "message", "hint"),
    [
        ("number,kind", "no column looks like the text", "-s data.text_column=NAME"),
        ("text,words", "no column looks like the label", "-s data.label_column=NAME"),
    ],
)
def test_a_column_that_cannot_be_guessed_is_asked_for_by_its_key(
    rows: Run, header: str, message: str, hint: str
) -> None:
    write_csv(Path("odd.csv"), [(str(n), f"a{n}") for n in range(30)], header)
    result = rows("init", "odd.csv", "--yes")
    assert (result.code, message in result.err, hint in result.err) == (2, True, True), result.err
    assert not Path("odd.yaml").exists()


def test_a_label_that_init_named_unasked_is_still_looked_at_by_check(rows: Run) -> None:
    """`init --yes` names every label, and `check` took each for meant."""
    texts = [(f"a text of several words {n}", ("joy", "anger")[n % 2]) for n in range(60)]
    write_csv(
        Path("odd.csv"), [*texts, ("a text with a slip", "joyy"), *((f"odd text {n}", "unknown") for n in range(9))]
    )
    assert rows("init", "odd.csv", "--yes").code == 0
    checked = rows("check", "odd.yaml")
    assert "note rows whose label may be a slip of another: 'joyy' (1) for 'joy'" in checked.out
    assert "note rows with the label 'unknown', which may stand for a missing one: 9" in checked.out
    assert "describe it in data.labels" in checked.out
    described = ("-s", "data.labels.joyy=more than joy", "-s", "data.labels.unknown=nobody knows")
    checked = rows("check", "odd.yaml", *described)
    assert ("a slip" in checked.out, "a missing one" in checked.out) == (False, False), checked.out


def test_a_table_with_a_single_label_is_told_so(rows: Run) -> None:
    """It said that no column looks like the label, with the column `label` there."""
    write_csv(Path("one.csv"), [(f"some words about number {n}", "joy") for n in range(30)])
    result = rows("init", "one.csv", "--yes")
    assert result.code == 2
    assert "in 30 rows, the column 'label' has a single label, 'joy'" in result.err
    assert "no column looks like" not in result.err


def test_a_column_of_yes_and_no_for_each_label_is_told_for_what_it_is(rows: Run) -> None:
    lines = [f"a text of several words {n},{n % 2},{n % 3 // 2},{n % 5 // 4}" for n in range(60)]
    Path("several.csv").write_text("\n".join(["text,bug,refund,praise", *lines]), encoding="utf-8")
    result = rows("init", "several.csv", "--yes")
    assert (result.code, result.err.count("may each be the label")) == (0, 0)
    assert "Label: bug, refund and praise, because each has marks, such as 1 and 0." in result.err + result.out
    data = load_recipe("several.yaml").data
    assert data.label_column == ("bug", "refund", "praise")
    assert data.no_label == "none"
    assert data.instruction == "Which labels fit the text?"
    Path("several.yaml").unlink()
    assert rows("init", "several.csv", "--yes", "-s", "data.label_column=refund").code == 0


def test_several_tables_are_a_question(rows: Run) -> None:
    write_csv(Path("more.csv"), [("a", "b")])
    result = rows("init", "--yes")
    assert (result.code, "more.csv, rows.csv" in result.err) == (2, True)


def test_a_table_in_place_of_a_recipe_offers_init(rows: Run) -> None:
    assert "rir-mlx init rows.csv" in rows("run", "rows.csv").err
    assert "init rows.csv" in rows("check", "rows.csv").err


def test_at_a_terminal_the_answers_go_into_the_recipe(rows: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["cross words", "", "tears", "What does the writer feel?"])
    questions = []

    def prompt(question: str, default: str, **_: object) -> str:
        questions.append(question)
        return next(answers) or default

    monkeypatch.setattr(typer, "prompt", prompt)
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: True)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert rows("init").code == 0
    made = load_recipe("rows.yaml").data
    assert made.labels == {"anger": "cross words", "joy": "", "sadness": "tears"}
    assert made.instruction == "What does the writer feel?"
    assert questions[0] == "What does anger mean?:"


def test_what_is_typed_at_a_terminal_is_read_and_a_time_that_is_none_is_asked_for_again(
    rows: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rir_mlx.hub_access.hub_answers", lambda: True)
    monkeypatch.setattr("rir_mlx.guide.machine.physical_memory", lambda: 32 * 2**30)
    typed = io.StringIO("\n".join(["", "cross words", "", "", "7", "1", "soon", "1m", "What is felt?", ""]))
    monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", typed)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    result = rows("init")
    assert result.code == 0, result.err
    assert "That is none of: 1, 2" in result.err
    assert result.err.count("How long may training take? (30m, 2h, 1d) [8h]") == 2
    assert typed.read() == ""
    made = load_recipe("rows.yaml")
    assert (made.data.labels["anger"], made.data.instruction) == ("cross words", "What is felt?")
    assert "# Reduced, so that all fits into 60 s." in Path("rows.yaml").read_text(encoding="utf-8")


def test_several_columns_of_text_can_be_named_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["a,x", "a, b", "b, c", "b, c", ""])
    monkeypatch.setattr(typer, "prompt", lambda *_, default, **__: next(typed) or default)
    known = ["a", "b", "b, c"]
    assert _some_of("Which?", known, ()) == ("a", "b")
    assert _some_of("Which?", known, ("a",)) == ("b, c",)
    assert _some_of("Which?", ["b", "c"], ("b",)) == ("b", "c")
    assert _some_of("Which?", known, ("b", "a")) == ("b", "a")


def test_a_subject_may_stand_above_the_text_and_the_length_that_init_chose_is_audited(
    rows: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"hello {n},{'so many words ' * 45}{n},{label}" for n in range(30) for label in LABELS]
    Path("mails.csv").write_text("\n".join(["subject,body,kind", *lines]) + "\n", encoding="utf-8")
    result = rows("init", "mails.csv", "--yes")
    assert "subject is left out. For texts that have both: -s 'data.text_column=[subject, body]'" in result.out
    assert load_recipe("mails.yaml").data.text_column == "body"
    look = look_at(Path("mails.csv"))
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: True)
    assert ask_columns(look) == (("subject", "body"), ())
    monkeypatch.setattr(typer, "confirm", lambda what, **__: "Put subject above" not in what)
    assert ask_columns(look) == ((), ())
    both = rows("init", "mails.csv", "--yes", "-o", "both.yaml", "-s", "data.text_column=[subject, body]")
    assert (both.code, load_recipe("both.yaml").data.text_column) == (0, ("subject", "body")), both.err
    assert "# Room for 99 % of the texts" in Path("mails.yaml").read_text(encoding="utf-8")
    assert "texts longer than" not in result.out


def test_rare_labels_that_look_misspelt_are_kept_unless_the_user_leaves_them_out(rows: Run) -> None:
    with Path("rows.csv").open("a", encoding="utf-8") as file:
        file.write("i was low,sadnes\n")
    result = rows("init", "--yes")
    assert (result.code, "probably misspelt, and kept as labels: 'sadnes' (1 row)" in result.err) == (0, True)
    assert "sadnes" in load_recipe("rows.yaml").data.labels


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("data.label_column=text",), "cannot be both the text and the label"),
        (("data.label_column=text", "data.text_column=label"), "different labels in 90 rows"),
    ],
)
def test_a_column_that_is_no_label_writes_no_recipe(rows: Run, keys: tuple[str, ...], message: str) -> None:
    result = rows("init", "--yes", *(part for key in keys for part in ("-s", key)))
    assert (result.code, message in result.err) == (2, True), result.err
    assert not Path("rows.yaml").exists()


def test_after_an_error_of_its_own_audit_init_sends_to_check(rows: Run) -> None:
    with Path("rows.csv").open("a", encoding="utf-8") as file:
        file.write(",joy\n" * 30)
    result = rows("init", "--yes")
    assert "warning: training would refuse these rows" in result.err
    assert result.err.splitlines()[-1].endswith("check rows.yaml")


def test_a_table_that_is_named_as_a_test_part_is_warned_of(rows: Run) -> None:
    Path("test.csv").write_bytes(Path("rows.csv").read_bytes())
    assert "warning: data.train is a test part (test.csv)" in rows("init", "test.csv", "--yes").out


def test_the_recipe_is_about_the_table_that_a_key_names(rows: Run) -> None:
    write_csv(Path("other.csv"), [(f"{WORDS[label]} {n} more", label) for n in range(30) for label in LABELS])
    assert rows("init", "rows.csv", "--yes", "-s", "data.train=other.csv").code == 0
    lines = Path("rows.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# A recipe for other.csv, written by")


def test_the_time_that_there_is_stands_in_the_recipe_of_a_model_that_takes_long(
    rows: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows("init", "--yes", "--time", "soon").code == 2
    assert rows("init", "--yes", "-o", "tiny.yaml").code == 0
    assert "Time:" not in Path("tiny.yaml").read_text(encoding="utf-8"), "the embedded model trains in minutes"
    monkeypatch.setattr("rir_mlx.hub_access.hub_answers", lambda: True)
    monkeypatch.setattr("rir_mlx.guide.machine.physical_memory", lambda: 32 * 2**30)
    result = rows("init", "--yes", "--time", "1m")
    assert result.code == 0, result.err
    assert "Time: about " in result.out
    text = Path("rows.yaml").read_text(encoding="utf-8")
    assert "# Time: about " in text
    assert "# Reduced, so that all fits into 60 s." in text
    assert load_recipe("rows.yaml").classifier.arms == ("qa", "qra")


def test_a_table_of_another_encoding_is_read_and_the_recipe_names_it(rows: Run) -> None:
    """A spreadsheet's export: semicolons, and Windows-1252."""
    lines = [f"Café {WORDS[label]} – très {n};{label}" for n in range(30) for label in LABELS]
    Path("french.csv").write_bytes("\r\n".join(["comment;kind", *lines]).encode("cp1252"))
    result = rows("init", "french.csv", "--yes")
    assert result.code == 0, result.err
    assert "Encoding: cp1252, because the file is not UTF-8, and looks like this." in result.out
    assert load_recipe("french.yaml").data.encoding == "cp1252"
    assert "Café" in Path("french.yaml").read_text(encoding="utf-8")
    assert rows("check", "french.yaml", "--offline").code == 0


@pytest.mark.parametrize(
    ("name", "cells", "key", "value", "question"),
    [
        ("a.csv", "{0};{1}", "label_separator", ";", "Which labels fit the text?"),
        ("a.jsonl", ["{0}", "{1}"], "label_separator", ",", "Which labels fit the text?"),
        ("b.jsonl", {"{0}": 2, "{1}": 1}, "soft_labels", True, "Which label fits the text?"),
    ],
)
def test_labels_that_are_several_or_votes_are_drafted_as_what_they_are(
    rows: Run, name: str, cells: Any, key: str, value: Any, question: str
) -> None:
    """The recipe named `joy;anger` as a label of its own, beside `anger;joy`."""
    both = json.dumps(cells).replace("{0}", "joy").replace("{1}", "anger")
    one = json.dumps(cells if isinstance(cells, str) else ["joy"] if isinstance(cells, list) else "joy")
    one = one.replace("{0};{1}", "joy")
    lines = [
        (f"text {n}", json.loads(both if n % 3 else one.replace("joy", "anger" if n % 2 else "joy"))) for n in range(60)
    ]
    if name.endswith(".csv"):
        write_csv(Path(name), lines)
    else:
        jsonl = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in lines)
        Path(name).write_text(jsonl, encoding="utf-8")
    result = rows("init", name, "--yes")
    assert result.code == 0, result.err
    data = load_recipe(f"{name[0]}.yaml").data
    assert getattr(data, key) == value
    assert list(data.labels) == ["anger", "joy"]
    assert data.instruction == question
    assert rows("check", f"{name[0]}.yaml").code == 0
    counted = re.search(r"steps for ([\d,]+) rows", Path(f"{name[0]}.yaml").read_text(encoding="utf-8"))
    assert counted is not None
    learned = examples_of(load_labelled(data, load_recipe(f"{name[0]}.yaml").seed).train)
    assert abs(int(counted[1]) - learned) <= 3, "the steps are of the examples that there will be"
    Path(f"{name[0]}.yaml").unlink()
    plain = rows("init", name, "--yes", "-s", f"data.{key}={json.dumps(value)}")
    assert plain.code == 0
    assert list(load_recipe(f"{name[0]}.yaml").data.labels) == ["anger", "joy"]


@pytest.mark.parametrize(
    "labels",
    [
        ["billing", "Customer\nservice", *["Customer service"] * 20],
        ["joy", "anger"] * 60 + ["joy;anger"],
        ["-2", "-2,5", "-1", "-1,5", "5", "0"],
        ["$1", "$2", "$1,000", "$2,000"],
        ["yes", "no", "yes, but late", "no, but late"],
        ["low", "low, rising", "high", "high, falling"],
        ["O", "B|PER", "I|PER", "B|LOC"],
        ["Sports/Tennis", "Sports/Soccer", "Politics"],
        ["other", "n/a;other", "bug;other", "bug"],
        ["[0.2, 0.8]", "[0.8, 0.2]"],
    ],
)
def test_labels_that_are_single_stay_single(rows: Run, labels: list[str]) -> None:
    """One cell with a line break, or phrases with a comma, decided how all were read."""
    lines = [{"text": f"text {n}", "label": labels[n % len(labels)]} for n in range(max(120, len(labels)))]
    Path("a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert rows("init", "a.jsonl", "--yes").code == 0
    data = load_recipe("a.yaml").data
    assert (data.label_separator, data.soft_labels) == (None, False)


def test_votes_name_every_label_also_one_that_never_wins(rows: Run) -> None:
    cells = [{"joy": 7, "fear": 1}, {"anger": 7, "joy": 2}]
    lines = [{"text": f"text {n}", "label": cells[n % 2]} for n in range(60)]
    Path("a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert rows("init", "a.jsonl", "--yes").code == 0
    assert list(load_recipe("a.yaml").data.labels) == ["anger", "fear", "joy"]
    checked = rows("check", "a.yaml")
    assert checked.code == 0, checked.out
    assert "cannot be used" not in checked.out


def test_columns_of_texts_that_are_left_out_are_named_with_the_key_that_joins_them(rows: Run) -> None:
    """Of a premise and a hypothesis the longer one alone was learned from, and nothing said so."""
    lines = [f"the dog {n} runs to me,an animal {n} moves,{('yes', 'no')[n % 2]}" for n in range(40)]
    Path("pairs.csv").write_text("\n".join(["premise,hypothesis,label", *lines]) + "\n", encoding="utf-8")
    said = " ".join(rows("init", "pairs.csv", "--yes").out.split())
    assert "hypothesis holds texts, too, and is left out." in said
    assert "-s 'data.text_column=[premise, hypothesis]'" in said
    both = rows("init", "pairs.csv", "--yes", "-o", "both.yaml", "-s", "data.text_column=[premise, hypothesis]")
    assert "left out" not in both.out
    assert "left out" not in rows("init", "rows.csv", "--yes").out


def test_a_column_that_says_which_rows_are_for_testing_is_named_as_unread(rows: Run) -> None:
    """Its test rows were trained on: the rows were split at random beside it, in silence."""
    parts = ("train", "train", "Test", "validation")
    lines = [f"the dog {n} runs to me,{('yes', 'no')[n // 4 % 2]},{parts[n % 4]}" for n in range(80)]
    Path("parts.csv").write_text("\n".join(["text,label,part", *lines]) + "\n", encoding="utf-8")
    said = " ".join(rows("init", "parts.csv", "--yes").err.split())
    assert "warning: part seems to say which rows are for testing, and is not read" in said
    assert "data.train, data.validation, data.test" in said
    assert "for testing" not in rows("init", "rows.csv", "--yes").err
