"""Which column is the text, the label or the reasoning, and which labels are slips."""

from __future__ import annotations

from pathlib import Path

import pytest

from rir_mlx.data.audit.findings import Material
from rir_mlx.data.rows import Row
from rir_mlx.errors import DataError
from rir_mlx.guide.table.columns import (
    ColumnFacts,
    columns_of_labels,
    guess_reasoning,
    guess_text,
    headline_of,
    label_columns,
    read_columns,
    shown_values,
)
from rir_mlx.guide.table.labels import label_facts
from rir_mlx.guide.table.texts import describe_texts, scripts


def table(tmp_path: Path, header: str, *rows: str) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_usual_names_win_over_what_the_cells_look_like(tmp_path: Path) -> None:
    rows = [f"{n},short {n},{'ab'[n % 2]},a much longer remark about number {n},{n % 3}" for n in range(30)]
    columns = read_columns(table(tmp_path, "id,text,label,remark,level", *rows))
    assert guess_text(columns) is not None
    assert guess_text(columns).column == "text"
    assert [guess.column for guess in label_columns(columns, {"text"})] == ["label"]


@pytest.mark.parametrize("header", ["id,subject,body,kind", "id,Betreff,Nachricht,Bereich", "id,title,text,label"])
def test_a_headline_is_found_and_is_no_label(tmp_path: Path, header: str) -> None:
    rows = [f"{n},hello {n % 5},a longer message with number {n},{'ab'[n % 2]}" for n in range(30)]
    columns = read_columns(table(tmp_path, header, *rows))
    guess = guess_text(columns)
    assert guess is not None
    headline, body, label = header.split(",")[1:]
    assert (headline_of(columns, guess.column), guess.column) == (headline, body)
    assert [found.column for found in label_columns(columns, {body, headline})] == [label]


def test_of_long_texts_two_are_shown_cut_where_they_are_cut() -> None:
    column = ColumnFacts("body")
    for text in ("one\nline | of two", "x" * 70, "three words here, and some more"):
        column.add(text)
    assert shown_values(column) == f"one line | of two | {'x' * 59}… | …"


def test_without_usual_names_the_longest_texts_and_the_values_that_repeat_are_found(tmp_path: Path) -> None:
    rows = [f"{n},the parcel number {n} has not come,{['late', 'lost', 'fine'][n % 3]}" for n in range(60)]
    columns = read_columns(table(tmp_path, "nr,what was said,kind", *rows))
    text, labels = guess_text(columns), label_columns(columns, {"what was said"})
    assert text is not None
    assert text.column == "what was said"
    assert "33 characters" in text.reason
    assert [guess.column for guess in labels] == ["kind"]
    assert "3 different values come again and again, 20 times each" in labels[0].reason


def test_two_columns_that_may_be_the_label_are_both_named_words_before_numbers(tmp_path: Path) -> None:
    rows = [f"the parcel number {n} is late,{n % 3},{['web', 'mail'][n % 2]}" for n in range(60)]
    columns = read_columns(table(tmp_path, "words,level,channel", *rows))
    assert [guess.column for guess in label_columns(columns, {"words"})] == ["channel", "level"]


def test_numbers_and_single_words_are_no_texts(tmp_path: Path) -> None:
    columns = read_columns(table(tmp_path, "a,b", *(f"{n},x{n}" for n in range(20))))
    assert guess_text(columns) is None


@pytest.mark.parametrize(("cell", "found"), [("because it came late", "why"), ("late", None)])
def test_a_reasoning_column_holds_sentences(tmp_path: Path, cell: str, found: str | None) -> None:
    columns = read_columns(table(tmp_path, "text,label,why", *(f"a text {n},b,{cell}" for n in range(5))))
    guess = guess_reasoning(columns, {"text", "label"})
    assert (guess.column if guess else None) == found


def test_a_table_of_a_header_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        read_columns(table(tmp_path, "text,label"))


def facts(**counts: int) -> dict[str, tuple[str, int]]:
    rows = [Row(f"{label} {n}", label) for label, count in counts.items() for n in range(count)]
    return dict(label_facts(Material({"train": rows})).strays)


def test_slips_of_a_label_are_found() -> None:
    assert facts(billing=100, biling=2, Billing=1, bug=50) == {"biling": ("billing", 2), "Billing": ("billing", 1)}


@pytest.mark.parametrize(
    ("slip", "meant"), [("sadnes", "sadness"), ("bug-report", "bug report"), ("technical isue", "technical issue")]
)
def test_a_letter_or_a_space_that_is_lost_is_a_slip(slip: str, meant: str) -> None:
    assert facts(**{meant: 100, slip: 2}) == {slip: (meant, 2)}


def test_people_who_labelled_are_seen_where_some_left_cells_out(tmp_path: Path) -> None:
    """A dash is no vote; it was taken for a mark, and the columns for labels that exclude each other."""
    rows = [f"the parcel number {n} is late,{['joy', 'fear'][n % 2]},{['joy', '-'][n % 2]},-" for n in range(8)]
    columns = read_columns(table(tmp_path, "text,rater_1,rater_2,rater_3", *rows, "so nice of you,joy,joy,fear"))
    guess = columns_of_labels(columns, ["text"])
    assert guess is not None
    assert guess.columns == ("rater_1", "rater_2", "rater_3")


def test_the_same_letters_are_a_slip_also_of_a_label_with_few_rows() -> None:
    """In 500 mails, two of `buliding` stood beside 33 of `building`: it became a label of its own."""
    counts = {
        "building": 33,
        "buliding": 2,
        "Building": 3,
        "fine": 16,
        "FINE": 4,
        "form": 9,
        "from": 5,
        "a12": 30,
        "a21": 4,
    }
    assert facts(**counts) == {"buliding": ("building", 2), "Building": ("building", 3), "FINE": ("fine", 4)}


@pytest.mark.parametrize(
    "counts",
    [
        {"safe": 200, "unsafe": 5},
        {"irrelevant": 200, "relevant": 9},
        {"tier1": 200, "tier2": 3},
        {"refund": 100, "refunds": 40},
        {"joy": 300, "fear": 4},
        {"class A": 200, "class C": 3},
        {"type_a": 200, "type_b": 3},
        {"Level II": 200, "Level III": 3},
        {"hate": 200, "hater": 3},
        {"employee": 200, "employer": 3},
        {"is spam mail": 200, "is no spam mail": 3},
    ],
    ids=str,
)
def test_rare_labels_that_mean_something_else_are_no_slips(counts: dict[str, int]) -> None:
    """Leaving out `unsafe` as a misspelt `safe` would spoil the table silently."""
    assert facts(**counts) == {}


def test_each_label_has_three_different_texts_of_usual_length() -> None:
    texts = ["a b", "A  b", "one two three", "four five six", "seven eight ten", "x " * 100]
    found = label_facts(Material({"train": [Row(text, "l") for text in texts]}))
    assert set(found.examples["l"]) == {"one two three", "four five six", "seven eight ten"}


def test_scripts_are_named_by_their_letters() -> None:
    assert scripts(["Где моя посылка?"]) == ["Cyrillic"]
    assert scripts(["包裹在哪里 where is it"]) == ["Latin", "CJK"]
    assert describe_texts(["one two", "one two three four"]) == "3 words (5 to 95 %: 2 to 4), in Latin script"
    assert describe_texts(["123"]) == "1 words (5 to 95 %: 1 to 1), in no script"


def test_rows_that_cannot_be_read_are_counted_beside_the_others(tmp_path: Path) -> None:
    """`init` said 2 rows where `check` said 3."""
    columns = read_columns(table(tmp_path, "text,label", "one,a", "two,b,too many", "three,a"))
    assert (columns.rows, columns.unread, columns.counted_rows) == (2, 1, "3 rows (1 cannot be read)")
