"""`rir-mlx check`: what it takes for data, what it prints, and how it ends."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from commands import Finished, Run, write_csv
from rir_cli.checking import _next_command

from rir_mlx.data.loading import load_labelled
from rir_mlx.recipe.loading import load_recipe

ROWS = [(f"text number {n}", ("joy", "fear")[n % 2]) for n in range(60)]
TORN = [("the same text", "joy"), ("The same  text", "fear")]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library has read the variable before, in this process."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    write_csv(path, [*ROWS, *TORN])
    return path


def names(audit: dict[str, Any]) -> list[str]:
    return [finding["name"] for finding in audit["findings"]]


def test_warnings_are_reported_and_fail_with_strict_alone(rir: Run, table: Path) -> None:
    plain, strict = rir("check", str(table)), rir("check", str(table), "--strict")
    assert (plain.code, strict.code) == (0, 2)
    assert plain.out == strict.out
    assert "warning texts" in plain.out
    assert "mine.csv:62 (" in plain.out
    assert strict.err.splitlines()[-1].startswith("error: --strict: ")
    assert "contradictions" in strict.err.splitlines()[-1]


def test_clean_rows_pass_strict(rir: Run, table: Path) -> None:
    write_csv(table, ROWS)
    result = rir("check", str(table), "--strict")
    assert result.code == 0
    assert "No problems found." in result.out


def test_notes_alone_pass_strict(rir: Run, table: Path) -> None:
    write_csv(table, [*ROWS, ("a <|eot_id|>", "joy")])
    result = rir("check", str(table), "--strict")
    assert result.code == 0
    assert result.out.splitlines()[-1] == "1 note."


def test_all_faults_of_a_file_are_in_the_report_and_not_an_error_that_stops_it(rir: Run, table: Path) -> None:
    write_csv(table, [*ROWS, ("", "joy"), ("a,b", "c"), *TORN])
    result = rir("check", str(table))
    assert result.code == 2
    assert "error rows that cannot be used: 2" in result.out
    assert "mine.csv:62: the text is empty" in result.out
    assert "mine.csv:63: 3 fields where the header has 2" in result.out
    assert "more than one label" in result.out
    assert result.out.splitlines()[-1].endswith("Training would refuse this data.")
    assert rir("check", str(table), "--strict").code == 2


def test_json_is_one_object_with_the_whole_audit(rir: Run, table: Path) -> None:
    result = rir("check", str(table), "--json", "--set", "data.val_size=0", "--set", "data.test_size=0")
    audit = json.loads(result.out)
    assert audit["rows"] == {"train": 62, "validation": 0, "test": 0}
    assert audit["data"]["train"]["path"] == str(table)
    assert names(audit) == ["contradictions in train", "duplicates in train"]
    assert audit["findings"][0]["examples"][0]["places"] == [
        {"part": "train", "file": str(table), "row": 62, "label": "joy"},
        {"part": "train", "file": str(table), "row": 63, "label": "fear"},
    ]
    assert audit["counts"] == {"error": 0, "warning": 1, "note": 1}
    assert audit["balance"]["ratio"] == 1.0


def test_lengths_are_counted_with_a_model_that_is_here_and_said_to_be_missing_otherwise(
    rir: Run, table: Path, tiny: Path
) -> None:
    counted = json.loads(rir("check", str(table), "--json", "--set", f"model={tiny}").out)
    assert 0 < counted["lengths"]["p50"] <= counted["lengths"]["max"]
    assert counted["lengths"]["room"]["qra"] < counted["lengths"]["room"]["qar"]
    missing = rir("check", str(table), "--set", "model=nobody/no-such-model", "--offline")
    assert missing.code == 0
    assert "Token lengths were not counted: the tokenizer of nobody/no-such-model is not on this machine" in missing.out


def test_a_short_max_seq_length_trims_texts(rir: Run, table: Path, tiny: Path) -> None:
    write_csv(table, [(f"{text} {'word ' * 40}", label) for text, label in ROWS])
    cut = ("--set", f"model={tiny}", "--set", "max_seq_length=300", "--set", "evaluate.max_reasoning_tokens=24")
    audit = json.loads(rir("check", str(table), "--json", *cut).out)
    assert audit["lengths"]["trimmed"]["qra"] >= audit["lengths"]["trimmed"]["qar"]
    assert "trimmed texts in qra" in names(audit)


def test_rows_that_max_samples_leaves_out_are_checked(rir: Run, table: Path) -> None:
    audit = json.loads(rir("check", str(table), "--json", "--set", "data.max_samples=4").out)
    assert sum(audit["rows"].values()) == 62


def test_a_pattern_a_column_and_parts_of_their_own(rir: Run, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ROWS[:30], "body of it,kind")
    write_csv(tmp_path / "b.csv", ROWS[30:], "body of it,kind")
    columns = ("--set", "data.text_column=body of it", "--set", "data.label_column=kind")
    audit = json.loads(rir("check", "*.csv", "--json", *columns, "--set", "data.val_size=0").out)
    assert sum(audit["rows"].values()) == 60
    both = ("--set", "data.test=b.csv", "--set", "data.val_size=0")
    audit = json.loads(rir("check", "a.csv", "--json", *columns, *both).out)
    assert audit["rows"] == {"train": 30, "validation": 0, "test": 30}


def test_a_file_of_any_name_and_a_folder_called_like_a_recipe(rir: Run, tmp_path: Path) -> None:
    name = "ny: [mappe] 😀.csv"
    write_csv(tmp_path / name, ROWS)
    assert json.loads(rir("check", name, "--json").out)["data"]["train"]["path"] == name
    (tmp_path / "demo").mkdir()
    assert json.loads(rir("check", "demo", "--json").out)["rows"]["test"] == 600


def test_a_recipe_a_shipped_recipe_and_embedded_data_can_be_checked(rir: Run, recipe: Path) -> None:
    audit = json.loads(rir("check", str(recipe), "--json").out)
    assert audit["rows"] == {"train": 45, "validation": 6, "test": 9}
    assert audit["lengths"] is not None
    assert json.loads(rir("check", "demo", "--json").out)["rows"]["test"] == 600
    assert sum(json.loads(rir("check", "builtin:feelings-test.csv", "--json").out)["rows"].values()) == 600


def test_the_newest_run_is_checked_where_nothing_is_named(rir: Run, finished: Finished) -> None:
    for named in ([], ["runs/small"]):
        audit = json.loads(rir("check", *named, "--json").out)
        assert audit["rows"] == {"train": 45, "validation": 6, "test": 9}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("mime.csv", "Did you mean 'mine.csv'?"),
        ("emotoin", "Did you mean 'emotion'?"),
        ("nowhere.yaml", "There is no recipe file nowhere.yaml"),
        ("nobody/no-such-rows", "no data set of that name on this machine"),
    ],
)
def test_data_that_are_not_there_are_exit_code_2_with_a_hint(rir: Run, table: Path, data: str, words: str) -> None:
    result = rir("check", data, "--offline")
    assert result.code == 2
    assert words in result.err
    assert result.out == ""


def test_a_training_warns_of_what_the_check_finds(rir: Run, recipe: Path) -> None:
    write_csv(Path("test.csv"), [("i feel happy today 3", "sadness"), ("something else", "joy")])
    result = rir(
        "train-classifier", str(recipe), "--arm", "qa", "--set", "data.test=test.csv", "--set", "data.val_size=0"
    )
    assert result.code == 0
    assert "note: test rows whose text stands in train: 1 of 2" in result.err
    assert "`rir-mlx check` shows the rows" in result.err


def test_quiet_prints_the_report_alone(rir: Run, table: Path, tiny: Path) -> None:
    result = rir("check", str(table), "--quiet", "--set", f"model={tiny}")
    assert result.err == ""
    assert "Tokens per text:" in result.out


BAD = """text,label
"a text
of three
lines",joy
,joy
x,y,z
"he said ""no"", twice",fear
open "quote,fear
"never closed,joy
"""


def write_bad(path: Path, delimiter: str = ",") -> None:
    good = "".join(f"{text},{label}\n" for text, label in ROWS)
    path.write_text((BAD + good).replace(",", delimiter), encoding="utf-8")


def test_every_bad_row_is_listed_once_by_its_line_and_by_the_row_of_a_spreadsheet(rir: Run, table: Path) -> None:
    write_bad(table)
    result = rir("check", str(table))
    assert result.code == 2
    assert "error: 1 finding to fix: refused rows." in result.err
    for line, row in ((5, 3), (6, 4), (9, 7)):
        assert result.out.count(f"mine.csv:{line} (row {row} in a spreadsheet): ") == 1, result.out
    refused = rir("train-classifier", "custom", "-s", f"data.train={table}", "-s", "model=builtin:tiny-llama")
    assert "line 5 (row 3 in a spreadsheet): the text is empty" in refused.err
    assert "data.on_bad_rows=skip" in refused.err


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_file_is_taken_apart_into_rows_that_train_and_rows_with_their_reason(
    rir: Run, table: Path, delimiter: str
) -> None:
    write_bad(table, delimiter)
    before = table.read_bytes()
    written = rir("check", str(table), "--write", "clean.csv", "--rejects", "bad.csv")
    assert (written.code, written.err.splitlines()[-1].endswith(" init clean.csv")) == (2, True), written.err
    assert table.read_bytes() == before
    clean = rir("check", "clean.csv")
    assert (clean.code, "63 rows" in clean.out) == (0, True), clean.out
    assert "a text\nof three\nlines" in Path("clean.csv").read_text(encoding="utf-8")
    with Path("bad.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, delimiter=delimiter)
    assert header == ["line_in_file", "why_rejected", "text", "label"]
    assert [row[0] for row in rows] == ["5", "6", "9"]
    assert rows[1] == ["6", "3 fields where the header has 2", "x", "y", "z"]
    assert rows[2][2] == f'"never closed{delimiter}joy', "its mark swallows no other row"
    assert "exists" in rir("check", str(table), "--write", "clean.csv").err
    own = rir("check", str(table), "--write", str(table), "--force")
    assert (own.code, "is the file to take apart" in own.err) == (2, True)
    assert table.read_bytes() == before


@pytest.mark.parametrize("option", ["--write", "--rejects"])
def test_a_folder_is_never_replaced_by_a_file(rir: Run, table: Path, option: str) -> None:
    """`--force` deleted a folder of the name with all that was in it."""
    write_bad(table)
    Path("kept.csv").mkdir()
    Path("kept.csv/precious.txt").write_text("kept", encoding="utf-8")
    files = {"--write": "clean.csv", "--rejects": "bad.csv"} | {option: "kept.csv"}
    refused = rir("check", str(table), *(word for pair in files.items() for word in pair), "--force")
    assert (refused.code, "kept.csv is a folder" in refused.err) == (2, True), refused.err
    assert Path("kept.csv/precious.txt").is_file()


def test_one_file_by_two_names_is_not_written_twice(rir: Run, table: Path) -> None:
    write_bad(table)
    Path("here").mkdir()
    refused = rir("check", str(table), "--write", "clean.csv", "--rejects", "here/../clean.csv")
    assert (refused.code, "name the same file" in refused.err) == (2, True), refused.err
    Path("one.csv").touch()
    Path("two.csv").hardlink_to("one.csv")
    refused = rir("check", str(table), "--write", "one.csv", "--rejects", "two.csv", "--force")
    assert "name the same file" in refused.err


def test_a_command_that_was_killed_between_its_two_files_goes_on_without_force(rir: Run, table: Path) -> None:
    """It asked for --force, which also replaces a file of another's."""
    write_bad(table)
    command = ("check", str(table), "--write", "clean.csv", "--rejects", "bad.csv")
    rir(*command)
    both = {name: Path(name).read_bytes() for name in ("clean.csv", "bad.csv")}
    assert "error: clean.csv exists." in rir(*command).err
    for missing in both:
        Path(missing).unlink()
        again = rir(*command)
        assert "exists" not in again.err
        assert {name: Path(name).read_bytes() for name in both} == both
    Path("clean.csv").unlink()
    Path("bad.csv").write_text("mine", encoding="utf-8")
    assert "error: bad.csv exists." in rir(*command).err
    assert (Path("clean.csv").exists(), Path("bad.csv").read_text(encoding="utf-8")) == (False, "mine")


def test_rows_with_bytes_that_are_no_text_are_set_aside_as_they_are(rir: Run, table: Path) -> None:
    """`--rejects` ended with a UnicodeEncodeError on the rows that it is for."""
    table.write_bytes(table.read_bytes() + b"caf\xe9,joy\n" + "\u00fcber,joy\n".encode() * 2)
    assert rir("check", str(table), "--write", "clean.csv", "--rejects", "bad.csv").code == 2
    assert b"caf\xe9,joy\n" in Path("bad.csv").read_bytes()
    lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
    half = '{"text": "half \\ud83d", "label": "joy", "line_in_file": 3, "why_rejected": "old"}'
    Path("rows.jsonl").write_text("\n".join([*lines, half, ""]), encoding="utf-8")
    assert rir("check", "rows.jsonl", "--write", "clean.jsonl", "--rejects", "bad.jsonl").code == 2
    [reject] = [json.loads(line) for line in Path("bad.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (reject["line_in_file"], reject["text"]) == (61, "half \ud83d")
    assert "half a character" in reject["why_rejected"]


@pytest.mark.parametrize(
    ("data", "clean", "command"),
    [
        ("rows.csv", None, "init rows.csv"),
        ("rows.csv", "clean.csv", "init clean.csv"),
        ("mine.yaml", None, "run mine.yaml"),
        ("mine.yaml", "clean.csv", "run mine.yaml -s data.train=clean.csv -s data.encoding=null"),
        (None, None, "run"),
        ("somebody/some-rows", None, "run -s data.train=somebody/some-rows"),
    ],
)
def test_what_follows_goes_on_with_what_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str | None, clean: str | None, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.csv", "clean.csv"):
        Path(name).touch()
    train = "rows.csv" if data in (None, "mine.yaml") else data
    encoding = ["data.encoding=cp1252"] if data == "mine.yaml" else []
    recipe = load_recipe(None, [f"data.train={train}", *encoding])
    assert _next_command(data, recipe, Path(clean) if clean else None, ()) == command
    keys = ("data.encoding=cp1252", "data.label_column=kind")
    set_ = _next_command(data, recipe, Path(clean) if clean else None, keys)
    plain, utf8, _ = command.partition(" -s data.encoding=null")
    assert set_ == plain + ("" if clean else " -s data.encoding=cp1252") + f" -s data.label_column=kind{utf8}"


def test_a_table_without_a_recipe_is_read_as_init_reads_it(rir: Run) -> None:
    texts = [f"i am on page {number} of this book" for number in range(40)]
    moods = [("joy", "fear", "joy, fear")[number % 3] for number in range(40)]
    lines = (f'{text},"{mood}"\n' for text, mood in zip(texts, moods, strict=True))
    Path("rows.csv").write_text("tweet,mood\n" + "".join(lines))
    done = rir("check", "rows.csv")
    assert "Label: mood, because 3 different values come again and again, 13 times each on average." in done.out
    assert "A text may have several labels, because labels are lists, or combined with ','." in done.out
    assert "labels that may hold together: 2, in 3 combinations" in done.out
    assert rir("check", "rows.csv", "-s", "data.label_separator=null").out.count("joy, fear") > 0


def test_the_files_of_a_pattern_are_read_as_the_first_of_them(rir: Run) -> None:
    for name in ("one", "two"):
        lines = "".join(f"{name} words about page {n},{('joy', 'fear')[n % 2]}\n" for n in range(30))
        Path(f"{name}.csv").write_text(f"tweet,mood\n{lines}")
    done = rir("check", "*.csv")
    assert (done.code, "*.csv: 60 rows" in done.out) == (0, True), done.err
    assert "rir-mlx run -s 'data.train=*.csv' -s 'data.label_column=\"mood\"'" in done.err


def test_a_table_without_a_header_is_not_read_as_if_it_had_one(rir: Run) -> None:
    """The first text became a column's name, and its row was lost."""
    rows = [f"i am on page {number} of this book,{('joy', 'fear')[number % 2]}\n" for number in range(40)]
    Path("rows.csv").write_text("".join(rows))
    done = rir("check", "rows.csv")
    assert (done.code, "the first line must name the columns" in done.err) == (2, True), done.out


def test_a_column_that_is_not_needed_may_hold_what_cannot_be_read(rir: Run) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    late = pa.array([2**62] * 40, pa.timestamp("us"))
    rows = {"text": [f"page {n} of it" for n in range(40)], "label": ["joy", "fear"] * 20, "at": late}
    pq.write_table(pa.table(rows), "rows.parquet")
    assert rir("check", "rows.parquet").code == 0


def test_columns_that_are_not_to_be_guessed_are_asked_for_with_what_follows(rir: Run) -> None:
    rows = "".join(f"some words about page {n},{n % 4},{n % 3}\n" for n in range(40))
    Path("rows.csv").write_text(f"text,joy,fear\n{rows}")
    done = rir("check", "rows.csv")
    assert done.code == 2
    assert "'fear' and 'joy' may each be the label" in done.err
    assert "-s 'data.label_column=[A, B]'" in done.err
    named = ("-s", "data.label_column=[joy, fear]", "-s", "data.soft_labels=true", "-s", "data.on_bad_rows=skip")
    done = rir("check", "rows.csv", *named)
    assert done.code == 0
    assert "rir-mlx init rows.csv -s 'data.label_column=[joy, fear]' -s data.soft_labels=true" in done.err


def test_lines_of_json_are_taken_apart(rir: Run, tmp_path: Path) -> None:
    good = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)
    bad = '{"text": "", "label": "joy", "id": 1}\nnot json\n{"text": "x", "label": "rage"}\n'
    Path("rows.jsonl").write_text(good + bad, encoding="utf-8")
    named = ("-s", "data.labels=[joy, fear]")
    assert rir("check", "rows.jsonl", "--write", "clean.jsonl", "--rejects", "bad.jsonl", *named).code == 2
    assert Path("clean.jsonl").read_text(encoding="utf-8") == good
    rejects = [json.loads(line) for line in Path("bad.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["line_in_file"] for row in rejects] == [61, 62, 63]
    assert rejects[0] == {"line_in_file": 61, "why_rejected": "the text is empty", "text": "", "label": "joy", "id": 1}
    assert rejects[1]["row"] == "not json"
    assert "'rage' is not named" in rejects[2]["why_rejected"]


def test_bad_rows_can_be_skipped_and_are_counted(rir: Run, table: Path) -> None:
    write_bad(table)
    result = rir("check", str(table), "-s", "data.on_bad_rows=skip")
    assert result.code == 0
    assert "Training leaves them out (data.on_bad_rows)" in result.out
    loaded = load_labelled(load_recipe("custom", [f"data.train={table}", "data.on_bad_rows=skip"]).data, 0)
    assert len(loaded.train) + len(loaded.validation) + len(loaded.test) == 63
    (note,) = [note for note in loaded.notes if "left out" in note]
    assert "mine.csv: 3 of 66 rows left out (data.on_bad_rows): " in note
    assert "the text is empty (1)" in note


def test_what_reads_like_the_code_of_an_emoji_stays_text(rir: Run, tmp_path: Path) -> None:
    """A label `:100:` and row 100 of `votes.jsonl:100:` became a picture."""
    rows = [(f"text {n}", (":100:", "joy")[n % 2]) for n in range(40)]
    write_csv(tmp_path / "a.csv", rows)
    out = rir("check", str(tmp_path / "a.csv")).out
    assert ":100:" in out
    assert "\N{HUNDRED POINTS SYMBOL}" not in out
