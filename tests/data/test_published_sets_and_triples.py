"""Data sets in the format of the hub, and the triples that R-Gen learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from table_files import fault_of, pairs, write_jsonl

from rir_mlx.data.loading import (
    load_labelled,
    load_triples,
)
from rir_mlx.errors import DataError
from rir_mlx.recipe.schema import DataSection, ReasoningSection


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
        assert error.what.startswith(f"data.train: there is no file {name}, and no data set of that name on this")
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
    monkeypatch.setattr("rir_mlx.data.tables.hub.hub_answers", lambda: True)
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
