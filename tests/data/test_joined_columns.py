"""A text of several columns: each on a line behind its name, the same in training and in classifying."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Run, write_recipe
from table_files import fault_of, load, write_jsonl, write_xlsx

from rir_mlx.classification.files import ClassifyFileOptions, classify_file
from rir_mlx.classification.scores import Prediction
from rir_mlx.data.loading import read_texts

HEADER = ("id", "subject", "body", "label")
ROWS = [("1", "No login", "it says wrong", "bug"), ("2", "", "where is it", "parcel"), ("3", "Hi", "", "bug")]
TEXTS = ["subject: No login\nbody: it says wrong", "body: where is it", "subject: Hi"]


def table(path: Path, *more: tuple[str, ...]) -> Path:
    rows = [*ROWS, *more]
    if path.suffix == ".csv":
        path.write_text("\n".join(",".join(row) for row in (HEADER, *rows)) + "\n", encoding="utf-8")
    elif path.suffix == ".xlsx":
        write_xlsx(path, [HEADER, *rows])
    else:
        write_jsonl(path, [dict(zip(HEADER, row, strict=True)) for row in rows])
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.xlsx"])
def test_filled_columns_are_joined_with_their_names(tmp_path: Path, name: str) -> None:
    data = load(table(tmp_path / name), text_column=["subject", "body"])
    assert [(row.text, row.label) for row in data.train] == list(zip(TEXTS, ["bug", "parcel", "bug"], strict=True))
    assert read_texts(tmp_path / name, ["subject", "body"]).texts == TEXTS


def test_a_row_is_bad_only_if_all_of_them_are_empty(tmp_path: Path) -> None:
    error = fault_of(table(tmp_path / "a.csv", ("4", "", " ", "bug")), text_column=["subject", "body"])
    assert "1 of 4 rows cannot be used" in error.what
    assert "row 5: no text" in error.what


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    error = fault_of(table(tmp_path / "a.csv"), text_column=["subject", "bodi"])
    assert "there is no column 'bodi'. Did you mean 'body'?" in error.what


def test_one_name_in_a_list_is_that_column_alone(tmp_path: Path) -> None:
    assert load(table(tmp_path / "a.csv", ("4", "x", "y", "bug")), text_column=["id"]).train[0].text == "1"


def test_files_are_classified_by_the_joined_text(tmp_path: Path) -> None:
    asked: list[str] = []

    def classify(texts: list[str]) -> list[Prediction]:
        asked.extend(texts)
        return [Prediction("bug", {"bug": 1.0}, 1.0) for _ in texts]

    options = ClassifyFileOptions(text_column=("subject", "body"))
    classify_file(table(tmp_path / "a.jsonl"), tmp_path / "out.jsonl", classify, options)  # type: ignore[arg-type]
    assert asked == TEXTS
    first = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (first["subject"], first["predicted_label"]) == ("No login", "bug")


def test_a_run_joins_the_columns_of_new_files_as_it_was_trained(rir: Run, tmp_path: Path, tiny: Path) -> None:
    recipe = write_recipe(tmp_path, tiny)
    rows = [("subject", "body", "label")]
    rows += [(f"about {n}", f"i feel {label}", label) for n in range(20) for label in ("joy", "anger")]
    Path("two.csv").write_text("\n".join(map(",".join, rows)) + "\n", encoding="utf-8")
    set_ = ("-s", "data.train=two.csv", "-s", "data.text_column=[subject, body]")
    assert rir("train-classifier", str(recipe), "--arm", "qa", *set_).code == 0
    result = rir("classify", "--file", "two.csv", "--json")
    assert result.code == 0, result.err
    first = json.loads(result.out.splitlines()[0])
    assert first["text"] == "subject: about 0\nbody: i feel joy"
