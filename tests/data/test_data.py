from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rir_mlx.data.audit.scan import scan_sources
from rir_mlx.data.loading import (
    LabelledData,
    load_labelled,
    load_triples,
    read_texts,
)
from rir_mlx.data.rows import Row
from rir_mlx.data.tables import sources
from rir_mlx.errors import DataError
from rir_mlx.recipe.schema import DataSection, ReasoningSection

SHARED = Path(__file__).parents[3] / "shared" / "data"
LABELS = ("anger", "fear", "joy")


def write_csv(path: Path, rows: list[Any], header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def some_rows(count: int, labels: tuple[str, ...] = LABELS) -> list[tuple[str, str]]:
    return [(f"text number {n}", labels[n % len(labels)]) for n in range(count)]


def load(path: Path | str, *, seed: int = 0, **keys: Any) -> LabelledData:
    """Everything as train, unless the keys say otherwise."""
    sizes = {"val_size": 0, "test_size": 0, "max_samples": None}
    return load_labelled(DataSection.model_validate({"train": str(path)} | sizes | keys), seed)


def fault_of(path: Path | str, **keys: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        load(path, **keys)
    return caught.value


def pairs(rows: tuple[Row, ...]) -> list[tuple[str, str]]:
    return [(row.text, row.label) for row in rows]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.ndjson", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = [
        ("good, really", "joy"),
        ('she said "no"\nand left', "anger"),
        ("  æøå 😀 ", "joy"),
        ("ﬁne e\u0301", "anger"),
    ]
    path = tmp_path / name
    if name == "a.csv":
        write_csv(path, rows)
    elif name == "a.tsv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([("text", "label"), *rows])
    elif name == "a.parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path)
    else:
        write_jsonl(path, [{"text": text, "label": label} for text, label in rows])
    assert pairs(load(path).train) == rows


def test_semicolons_of_a_spreadsheet_separate_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text;label\ngod, ja;joy\nnej;anger\n", encoding="utf-8")
    assert pairs(load(path).train) == [("god, ja", "joy"), ("nej", "anger")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\nhi,joy\r\nno,anger\r\n")
    assert pairs(load(path).train) == [("hi", "joy"), ("no", "anger")]


def test_a_text_of_200000_characters_loads_and_the_csv_limit_is_put_back(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "word, " * 33_334
    data = load(write_csv(tmp_path / "a.csv", [(long, "joy"), ("short", "anger")]))
    assert data.train[0].text == long
    assert csv.field_size_limit() == before


def test_a_pattern_joins_its_files_in_order(tmp_path: Path) -> None:
    write_csv(tmp_path / "b.csv", [("second", "joy")])
    write_jsonl(tmp_path / "a.jsonl", [{"Sentence": "first", "Category": "anger"}])
    assert pairs(load(tmp_path / "?.*").train) == [("first", "anger"), ("second", "joy")]
    assert "no file fits the pattern" in fault_of(tmp_path / "*.parquet").what


def test_embedded_data_goes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "EMBEDDED", tmp_path)
    write_csv(tmp_path / "tickets.csv", some_rows(6))
    assert pairs(load("builtin:tickets.csv").train) == some_rows(6)
    assert "Did you mean 'tickets.csv'?" in fault_of("builtin:ticket.csv").what


def test_three_bad_rows_of_ten_thousand_are_named_together_with_their_lines(tmp_path: Path) -> None:
    rows = some_rows(10_000)
    rows[98] = ("", "joy")  # line 100: the header is line 1
    rows[4_998] = ("a text", "")
    rows[9_998] = ("a text", "jooy")
    error = fault_of(write_csv(tmp_path / "a.csv", rows), labels=list(LABELS))
    assert error.what.startswith(f"{tmp_path / 'a.csv'}: 3 of 10,000 rows cannot be used:")
    assert error.faults == (
        "row 100: the text is empty",
        "row 5000: the label is empty",
        "row 10000: the label 'jooy' is not one of the 3 labels. Did you mean 'joy'?",
    )
    assert "data.labels" in error.hint


def test_twenty_faults_are_shown_and_all_are_kept(tmp_path: Path) -> None:
    error = fault_of(write_csv(tmp_path / "a.csv", [("  ", "joy")] * 30 + some_rows(5)))
    assert len(error.faults) == 30
    assert error.what.count("the text is empty") == 20
    assert error.what.endswith("and 10 more")


def test_faults_of_all_parts_and_files_are_reported_at_once(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", [*some_rows(6), ("", "joy")])
    test = write_csv(tmp_path / "test.csv", [*some_rows(6), ("odd", "")])
    error = fault_of(train, test=str(test))
    assert error.faults == ("row 8: the text is empty", "row 8: the label is empty")
    assert str(train) in error.what
    assert str(test) in error.what
    both = fault_of(tmp_path / "*.csv")
    assert both.faults == (f"{test}, row 8: the label is empty", f"{train}, row 8: the text is empty")


def test_a_label_of_the_test_rows_that_train_does_not_know_is_a_fault(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", some_rows(6))
    test = write_csv(tmp_path / "test.csv", [("a", "joy"), ("b", "Joy")])
    assert fault_of(train, test=str(test)).faults == (
        "row 3: the label 'Joy' is not one of the 3 labels. Did you mean 'joy'?",
    )


def test_faulty_train_rows_do_not_let_the_test_rows_decide_the_labels(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", [*some_rows(6), ("", "joy")])
    validation = write_csv(tmp_path / "validation.csv", [("a", "other")])
    test = write_csv(tmp_path / "test.csv", [("a", "joy")])
    assert fault_of(train, validation=str(validation), test=str(test)).faults == ("row 8: the text is empty",)


def test_ragged_rows_are_counted_by_the_lines_an_editor_shows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        'text,label\n"two\nlines",joy\n\nno comma\none,two,three\n"quoted" badly,joy\nfine,anger\n', "utf-8"
    )
    assert fault_of(path).faults == (
        "row 5: 1 field where the header has 2",
        "row 6: 3 fields where the header has 2",
        "row 7: not valid CSV: ',' expected after '\"'",
    )


def test_a_quotation_mark_that_is_never_closed_is_named_where_it_opens(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\na,joy\n"b,anger\nc,joy\n', "utf-8")
    (fault,) = fault_of(path).faults
    assert fault.startswith("row 3: a quotation mark opened here is never closed")


def test_broken_json_lines_are_told_from_lines_that_are_no_object(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        '{"text": "a", "label": "joy"}',
        '{"text": "b", "label": joy}',
        '["c", "joy"]',
        "",
        '{"text": 5, "label": "x"}',
    ]
    path.write_text("\n".join([*lines, '{"label": "joy"}', '{"text": "\\ud83d", "label": "joy"}']), "utf-8")
    error = fault_of(path)
    assert error.what.startswith(f"{path}: 5 of 6 rows")
    assert error.faults == (
        "row 2: broken JSON at column 24: Expecting value",
        'row 3: not a JSON object but ["c", "joy"]',
        "row 5: the text is not a string but 5",
        "row 6: no text",
        "row 7: the text holds half a character (a lone surrogate) at 0",
    )


def test_a_json_array_is_not_taken_for_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps([{"text": "a", "label": "joy"}], indent=1), "utf-8")
    assert "one JSON array" in fault_of(path).what


def test_a_line_in_another_encoding_is_named_with_byte_and_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\nfine,joy\ncaf\xe9,anger\n" + "café,anger\n".encode())
    assert fault_of(path).faults == ("row 3: not UTF-8 text: byte 0xE9 at column 4",)
    path.write_bytes(b"\xef\xbb\xbftext,label\ncaf\xe9,joy\n")
    assert fault_of(path).faults == ("row 2: not UTF-8 text: byte 0xE9 at column 4",)
    texts = tmp_path / "a.txt"
    texts.write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(DataError, match=r"is not UTF-8 text \(row 2: byte 0xE9 at offset 8\)\. It looks like cp1252"):
        read_texts(texts, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (b"text,label\n\n", "has a header but no rows"),
        ("text,label\na,joy\n".encode("utf-16"), "is UTF-16 text"),
        ("text,label\na,joy\n".encode("utf-16-le"), "It looks like utf-16-le"),
        (b"text,label\na,joy\nb,joy\n", "all 2 rows"),
        (b"text,label\na,joy\nb\x00b,anger\n", "row 3: the text holds a NUL byte"),
        (b"text,label,text\na,joy,b\n", "2 columns are called 'text'"),
    ],
)
def test_files_that_hold_no_usable_table_say_why(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert message in fault_of(path).what


def test_a_parquet_file_that_is_none_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"text,label\na,joy\n")
    assert "cannot be read as Parquet" in fault_of(path).what


def test_a_path_that_is_not_there_names_the_closest_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", some_rows(6))
    error = fault_of(tmp_path / "trian.csv")
    assert f"data.train: there is no file {tmp_path / 'trian.csv'}. Did you mean 'train.csv'?" in error.what
    assert "there is no folder" in fault_of(tmp_path / "nowhere" / "a.csv").what


def test_a_folder_and_an_unknown_suffix_say_what_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    (tmp_path / "a.dta").write_bytes(b"?")
    for path in (tmp_path, tmp_path / "a.dta"):
        assert "Accepted: files ending in .csv, .tsv, .jsonl" in fault_of(path).hint
    assert "Save the sheet as CSV" in fault_of(tmp_path / "a.xlsx").hint


def test_usual_column_names_are_found_whatever_their_case(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "a.csv", [(1, "x", "hello", "joy"), (2, "y", "no", "fear")], ("id", "Title", "TWEET", " Emotion")
    )
    assert pairs(load(path).train) == [("hello", "joy"), ("no", "fear")]


def test_a_column_that_is_missing_or_doubtful_lists_the_columns_and_the_key(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("a", "b", "joy")], ("tweet", "review", "label"))
    error = fault_of(path)
    assert "'tweet' and 'review' may each be the text. Columns: tweet, review, label." in error.what
    assert "data.text_column" in error.hint
    assert "Did you mean 'tweet'? Columns:" in fault_of(path, text_column="twet").what
    path = write_csv(tmp_path / "b.csv", [("a", "b")], ("text", "mood"))
    error = fault_of(path)
    assert "no column looks like the label. Columns: text, mood." in error.what
    assert "data.label_column" in error.hint


def test_labels_keep_the_order_and_the_descriptions_of_the_recipe(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", some_rows(6))
    assert load(path).labels == dict.fromkeys(sorted(LABELS), "")
    named = {"joy": "glad", "other": "", "fear": "afraid", "anger": ""}
    data = load(path, labels=named)
    assert list(data.labels.items()) == list(named.items())
    assert "no training row has the label 'other'" in data.notes


def test_numbers_as_labels_become_their_digits_with_a_note(tmp_path: Path) -> None:
    for path in (
        write_csv(tmp_path / "a.csv", [("a", 0), ("b", 10)]),
        write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 10.0}]),
    ):
        data = load(path)
        assert pairs(data.train) == [("a", "0"), ("b", "10")]
        assert any("numbers without names (0, 10)" in note for note in data.notes)


def test_labels_that_differ_in_blanks_are_one_and_those_that_differ_in_capitals_are_kept(tmp_path: Path) -> None:
    data = load(write_csv(tmp_path / "a.csv", [("a", "joy"), ("b", " Joy"), ("c", "fear")]))
    assert set(data.labels) == {"joy", "Joy", "fear"}


def test_a_column_of_identifiers_is_not_taken_for_labels(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [(f"text {n}", f"id-{n}") for n in range(100)])
    assert "100 different labels in 100 rows" in fault_of(path).what


def test_data_sorted_by_class_gives_every_part_every_class_in_proportion(tmp_path: Path) -> None:
    rows = [(f"{label} {n}", label) for label, count in zip(LABELS, (500, 300, 200), strict=True) for n in range(count)]
    data = load(write_csv(tmp_path / "a.csv", rows), test_size=0.2, val_size=100, max_samples=50)
    for part, size in ((data.test, 200), (data.validation, 100), (data.train, 50)):
        counts = Counter(row.label for row in part)
        assert counts == {"anger": size * 5 // 10, "fear": size * 3 // 10, "joy": size * 2 // 10}
    assert "test carved out of train: 200 rows" in data.notes
    assert "validation carved out of train: 100 rows" in data.notes


def test_carved_parts_are_disjoint_complete_in_file_order_and_decided_by_the_seed(tmp_path: Path) -> None:
    rows = some_rows(300)
    path = write_csv(tmp_path / "a.csv", rows)
    sizes = {"test_size": 60, "val_size": 30}
    data = load(path, **sizes)
    parts = [pairs(part) for part in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [210, 30, 60]
    assert sorted(row for part in parts for row in part) == sorted(rows)
    for part in parts:
        assert [rows.index(row) for row in part] == sorted(rows.index(row) for row in part)
    assert load(path, **sizes) == data
    other = load(path, seed=1, **sizes)
    assert other.test != data.test
    assert other.digest != data.digest


def test_row_ids_are_unique_in_a_run_the_same_on_each_load_and_name_the_source(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", some_rows(60))
    test = write_csv(tmp_path / "test.csv", some_rows(6))
    section = {"train": str(train), "test": str(test), "val_size": 10, "max_samples": 30}
    data = load_labelled(DataSection.model_validate(section), 0)
    assert [row.id for row in data.test] == [f"test:{line}" for line in range(2, 8)]
    assert {row.id for row in (*data.train, *data.validation)} <= {f"train:{line}" for line in range(2, 62)}
    ids = [row.id for row in (*data.train, *data.validation, *data.test)]
    assert len(set(ids)) == len(ids) == 46
    alone = load_labelled(DataSection.model_validate(section), 0, parts=["validation"])
    assert [row.id for row in alone.validation] == [row.id for row in data.validation]
    scanned = scan_sources(DataSection.model_validate(section), 0)
    assert {row.id for row in scanned.parts["validation"]} == {row.id for row in data.validation}
    both = load(tmp_path / "*.csv")
    assert [row.id for row in both.train[:2]] == ["train:1:2", "train:1:3"]
    assert both.train[-1].id == "train:2:61"
    assert len({row.id for row in both.train}) == 66


def test_the_digest_is_decided_by_what_rows_say_not_by_their_ids(tmp_path: Path) -> None:
    write_csv(tmp_path / "1.csv", some_rows(6)[:4])
    write_csv(tmp_path / "2.csv", some_rows(6)[4:])
    one = load(write_csv(tmp_path / "all.csv", some_rows(6)))
    two = load(tmp_path / "?.csv")
    assert one.digest == two.digest
    assert [row.id for row in one.train] != [row.id for row in two.train]
    assert one.train == two.train


def test_the_test_part_depends_on_neither_val_size_nor_max_samples(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", some_rows(300))
    small = load(path, test_size=60, val_size=0)
    assert small.validation == ()
    large = load(path, test_size=60, val_size=90, max_samples=20)
    assert large.test == small.test
    assert len(large.train) == 20


def test_a_part_is_the_same_whichever_others_are_asked_for(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", some_rows(300))
    section = DataSection.model_validate({"train": str(path), "test_size": 60, "val_size": 30, "max_samples": 100})
    whole = load_labelled(section, 7)
    for part in ("train", "validation", "test"):
        alone = load_labelled(section, 7, parts=[part])
        assert getattr(alone, part) == getattr(whole, part)
        assert len(alone.train) + len(alone.validation) + len(alone.test) == len(getattr(whole, part))
        assert alone.labels == whole.labels


def test_only_the_files_that_a_part_needs_are_read(tmp_path: Path) -> None:
    test = write_csv(tmp_path / "test.csv", some_rows(9))
    section = DataSection(train=str(tmp_path / "absent.csv"), test=str(test), labels=list(LABELS), test_size=0)
    assert pairs(load_labelled(section, 0, parts=["test"]).test) == some_rows(9)


def test_the_draw_is_the_same_in_another_process(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", some_rows(90))
    code = (
        "import sys; from rir_mlx.data.loading import load_labelled; from rir_mlx.recipe.schema import DataSection\n"
        f"section = DataSection(train={str(path)!r}, val_size=0.1, test_size=0.2, max_samples=30)\n"
        "print(load_labelled(section, 3).digest)\n"
        "print([m for m in ('numpy', 'pyarrow', 'datasets', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    digest, heavy = done.stdout.splitlines()
    assert digest == load(path, seed=3, val_size=0.1, test_size=0.2, max_samples=30).digest
    assert heavy == "[]"  # the command line starts fast


def test_sizes_cap_given_parts_from_1_on_and_leave_them_whole_below(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", some_rows(30))
    test = write_csv(tmp_path / "test.csv", sorted(some_rows(60), key=lambda row: row[1]))
    capped = load(train, test=str(test), test_size=6, validation=str(test), val_size=0.5)
    assert Counter(row.label for row in capped.test) == {"anger": 2, "fear": 2, "joy": 2}
    assert len(capped.validation) == 60
    assert len(load(train, test=str(test), test_size=100).test) == 60
    assert load(train, test=str(test), test_size=6, seed=1).test != capped.test


@pytest.mark.parametrize("sizes", [{"test_size": 2000}, {"test_size": 0.6}, {"test_size": 4, "val_size": 4}])
def test_a_carved_part_never_takes_more_than_half(tmp_path: Path, sizes: dict[str, Any]) -> None:
    error = fault_of(write_csv(tmp_path / "a.csv", some_rows(10)), **sizes)
    key = "data.val_size" if "val_size" in sizes else "data.test_size"
    assert error.what.startswith(f"{key}: ")
    assert "more than half" in error.what
    assert f"Set {key}" in error.hint


def test_max_samples_keeps_a_row_of_every_label(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "a.csv", [(f"t{n}", "joy") for n in range(500)] + [("rare", "fear"), ("rarer", "anger")]
    )
    data = load(path, max_samples=10, test_size=50)
    assert Counter(row.label for row in data.train) == {"joy": 8, "fear": 1, "anger": 1}
    assert any("a single row has the label 'anger', 'fear'" in note for note in data.notes)
    assert {row.label for row in data.test} == {"joy"}
    assert "data.max_samples" in fault_of(path, max_samples=2).what


def test_a_draw_of_many_labels_has_exactly_the_asked_size(tmp_path: Path) -> None:
    rows = [(f"{label} {n}", f"label {label}") for label in range(77) for n in range(2 + label % 9)]
    data = load(write_csv(tmp_path / "a.csv", rows), test_size=101, val_size=0.1, max_samples=120)
    assert (len(data.test), len(data.validation), len(data.train)) == (101, round(0.1 * len(rows)), 120)
    assert len({row.label for row in data.train}) == 77


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out like a data set on the hub, with class ids, a withheld label and an empty text."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sadness", "joy", "unused"])}
    )
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for split in ("train", "valid"):
        rows = {"text": ["a", "b", "c", "d", " "], "label": [1, 0, 1, -1, 0]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: split\n  data_files:\n  - split: train\n    path: data/train-*\n"
        "  - split: valid\n    path: data/valid-*\n---\n"
    )
    return folder


def test_class_ids_become_names_in_the_order_of_the_ids(data_set: Path) -> None:
    data = load_labelled(DataSection(train=str(data_set), val_size=0, test_size=0), 0)
    assert pairs(data.train) == [("a", "joy"), ("b", "sadness"), ("c", "joy")]
    assert list(data.labels) == ["sadness", "joy"]
    left_out = f"{data_set} (train): 2 of 5 rows left out: no label (1), the text is empty (1)"
    assert left_out in data.notes
    assert sorted(path.name for path in data_set.rglob("*") if path.is_file()) == [
        "README.md",
        "train-00000-of-00001.parquet",
        "valid-00000-of-00001.parquet",
    ]


def test_a_parquet_file_of_class_ids_tells_their_names_and_its_faults_are_the_users(data_set: Path) -> None:
    error = fault_of(data_set / "data" / "train-00000-of-00001.parquet")
    assert "2 of 5 rows cannot be used (counted from 1):" in error.what
    assert error.faults == ("row 4: no label", "row 5: the text is empty")


def test_a_missing_split_or_configuration_lists_those_there_are(data_set: Path) -> None:
    error = fault_of(str(data_set), validation={"path": str(data_set), "split": "validation"})
    assert "has no split 'validation'. Did you mean 'valid'?" in error.what
    assert error.hint == "Set data.validation.split to one of: train, valid."
    error = fault_of("x", train={"path": str(data_set), "config": "plain"})
    assert "has no configuration 'plain'" in error.what
    assert error.hint == "Set data.train.config to one of: split."


def test_a_data_set_that_cannot_be_reached_is_one_sentence(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    for name in ("nobody/nothing-v1.5", "nothing"):
        error = fault_of(name)
        assert error.what.startswith(f"data.train: {name} is no file here, and the Hugging Face hub cannot be reached")
        assert "--offline" in error.hint


@pytest.mark.parametrize(
    ("words", "found", "hint"),
    [
        ("Dataset 'a/b' is a gated dataset on the Hub. Visit …", "a/b is gated", "hf auth login"),
        ("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.", "there is no data set a/b", "Check the id"),
        (
            "Revision 'v9' doesn't exist for dataset 'a/b' on the Hub.",
            "a/b has no revision 'v9'",
            "data.train.revision",
        ),
    ],
)
def test_refusals_of_the_hub_say_how_to_mend_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, found: str, hint: str
) -> None:
    import datasets

    def refuse(*_: Any, **__: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError(words)

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.chdir(tmp_path)
    error = fault_of("x", train={"path": "a/b", "revision": "v9"})
    assert found in error.what
    assert hint in error.hint


def triples(count: int, mark: str = "") -> list[dict[str, Any]]:
    return [{"prompt": f"{mark}q{n}", "response": n, "rationale": f"because {n}"} for n in range(count)]


def test_triples_of_a_pattern_are_split_by_seed_with_max_samples_counted_after(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", triples(60, "a"))
    write_jsonl(tmp_path / "b.jsonl", triples(40, "b"))
    section = ReasoningSection(source=str(tmp_path / "*.jsonl"), val_size=0.1, max_samples=50)
    data = load_triples(section, 0)
    assert (len(data.train), len(data.validation)) == (50, 10)
    assert not {t.question for t in data.train} & {t.question for t in data.validation}
    assert {t.question[0] for t in data.train} == {"a", "b"}
    assert data.train[0].answer == data.train[0].question[2:]
    everything = [t["prompt"] for t in (*triples(60, "a"), *triples(40, "b"))]
    places = [everything.index(t.question) for t in data.train]
    assert places == sorted(places)
    assert load_triples(section, 0) == data
    assert load_triples(section, 1).digest != data.digest


def test_incomplete_triples_are_faults_of_a_file(tmp_path: Path) -> None:
    rows = triples(5)
    rows[1]["rationale"] = " "
    rows[2]["response"] = None
    del rows[3]["prompt"]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError) as caught:
        load_triples(ReasoningSection(source=str(path), val_size=0), 0)
    assert caught.value.faults == ("row 2: the reasoning is empty", "row 3: no answer", "row 4: no question")


def test_incomplete_triples_of_a_published_set_are_left_out_and_counted(tmp_path: Path, data_set: Path) -> None:
    import datasets

    folder = tmp_path / "triples"
    folder.mkdir()
    rows = {"question": ["q", "r", None], "answer": ["1", "", "3"], "cot": ["because", "since", "as"]}
    datasets.Dataset.from_dict(rows).to_parquet(folder / "train.parquet")
    data = load_triples(ReasoningSection(source=str(folder), val_size=0), 0)
    assert [t.question for t in data.train] == ["q"]
    assert data.notes == (f"{folder} (train): 2 of 3 rows left out: the answer is empty (1), no question (1)",)


def test_a_validation_part_of_most_triples_names_its_key(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", triples(10))
    with pytest.raises(DataError, match=r"reasoning\.val_size: 200 rows would be more than half of the 10"):
        load_triples(ReasoningSection(source=str(path)), 0)


def test_texts_come_one_a_line_or_from_the_text_column(tmp_path: Path) -> None:
    lines = tmp_path / "a.txt"
    lines.write_bytes("\ufefffirst\r\n  second, \u2028still second\r\nthird".encode())
    assert read_texts(lines, None) == ["first", "  second, \u2028still second", "third"]
    table = write_csv(tmp_path / "a.csv", [("x", 'b\n"c"')], ("id", "utterance"))
    assert read_texts(table, None) == ['b\n"c"']
    assert read_texts(table, "id") == ["x"]
    assert read_texts(write_csv(tmp_path / "b.csv", [("x",)], ("anything",)), None) == ["x"]


def test_a_blank_line_among_texts_is_a_fault_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("first\n\nthird\n \n", "utf-8")
    with pytest.raises(DataError) as caught:
        read_texts(path, None)
    assert caught.value.faults == ("row 2: the text is empty", "row 4: the text is empty")
    with pytest.raises(DataError, match=r"Did you mean 'a\.txt'\?"):
        read_texts(tmp_path / "b.txt", None)


@pytest.mark.skipif(not (SHARED / "emotion").is_dir(), reason="the real data are not here")
def test_emotion_has_16000_rows_and_six_labels() -> None:
    data = load(SHARED / "emotion" / "train.csv", validation=str(SHARED / "emotion" / "validation.csv"))
    assert (len(data.train), len(data.validation)) == (16_000, 2_000)
    assert list(data.labels) == ["anger", "fear", "joy", "love", "sadness", "surprise"]


@pytest.mark.skipif(not (SHARED / "reasoning").is_dir(), reason="the real data are not here")
def test_a_pattern_reads_both_files_of_human_explanations() -> None:
    data = load_triples(ReasoningSection(source=str(SHARED / "reasoning" / "*.jsonl"), max_samples=None), 0)
    assert (len(data.train), len(data.validation)) == (29_526 + 7_610 - 200, 200)
