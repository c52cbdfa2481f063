"""`rir-mlx classify` on a finished run, and on one whose files are damaged."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from commands import LABELS, Finished, Run, write_csv
from tiny import make_tiny_llama


def test_classify_takes_an_argument_standard_input_and_files(rir: Run, finished: Finished) -> None:
    single = rir("classify", "i feel happy today", "--json")
    values = json.loads(single.out)
    assert values["label"] in LABELS
    assert sum(values["probabilities"].values()) == pytest.approx(1)
    assert isinstance(values["reasoning"], str)
    shown = rir("classify", "i feel happy today")
    assert all(label in shown.out for label in LABELS)
    assert values["reasoning"] in shown.out
    assert len(rir("classify", stdin="a day\nthe rain\n").out.splitlines()) == 2
    write_csv(Path("more.csv"), [("a day", "x"), ("the rain", "y"), ("home", "z")])
    lines = rir("classify", "--file", "more.csv", "--arm", "qa", "--json").out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a day", "the rain", "home"]
    assert all(json.loads(line)["reasoning"] is None for line in lines)


@pytest.mark.parametrize("name", ["more.csv", "more.txt", "more.jsonl"])
def test_rows_without_a_text_are_told_and_the_others_answered(rir: Run, finished: Finished, name: str) -> None:
    """Without --output one empty cell refused the whole file, which is classified with it."""
    texts, first = ["a day", "", "home", "a\0b"], 2 if name == "more.csv" else 1
    if name == "more.csv":
        write_csv(Path(name), [(text, "joy") for text in texts])
    else:
        lines = texts if name == "more.txt" else [json.dumps({"text": text}) for text in texts]
        Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = rir("classify", "--file", name, "--arm", "qa", "--json", "-q")
    assert done.code == 0, done.err
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == ["a day", "home"]
    assert (
        f"note: {name}: 2 of 4 rows have no label:\n  row {first + 1}: the text is empty\n"
        f"  row {first + 3}: the text holds a NUL byte\nWith --output, such rows keep their place"
    ) in done.err
    with_output = rir(
        "classify", "--file", name, "--arm", "qa", "-q", "--output", "out" + name[4:].replace("txt", "jsonl")
    )
    assert (with_output.code, "2 of 4 rows have no label: " in with_output.err) == (0, True)
    write_csv(Path("none.csv"), [("", "joy"), (" ", "joy")])
    for output in ((), ("--output", "other.csv")):
        nothing = rir("classify", "--file", "none.csv", "--arm", "qa", *output)
        assert nothing.code == 2
        assert re.search(r"none.csv: no row has a text.*: the text is empty \(2\)\.", nothing.err)
    write_csv(Path("odd.csv"), [("a day", "joy"), ("a,day", "joy")])
    for output in ((), ("--output", "other.csv")):
        broken = rir("classify", "--file", "odd.csv", "--arm", "qa", *output)
        assert (broken.code, "row 3: 3 fields where the header has 2" in broken.err) == (2, True)


def test_the_format_of_a_file_can_be_given(rir: Run, finished: Finished) -> None:
    Path("odd.csv").write_bytes('text#id\n"caf\u00e9#1\nth\u00e9"#2\n'.encode("cp1252"))
    refused = rir("classify", "--file", "odd.csv", "--arm", "qa")
    assert (refused.code, "--encoding cp1252" in refused.err) == (2, True)
    said = ("--encoding", "cp1252", "--delimiter", "#", "--no-quotes")
    lines = rir("classify", "--file", "odd.csv", "--arm", "qa", "--json", *said).out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ['"caf\u00e9', 'th\u00e9"']
    assert rir("classify", "--file", "odd.csv", "--output", "out.csv", "--arm", "qa", *said).code == 0
    assert Path("out.csv").read_text(encoding="utf-8").startswith('text#id#label#probability#reasoning\n"caf\u00e9#1#')
    wrong = rir("classify", "--file", "odd.csv", "--delimiter", "ab")
    assert (wrong.code, "must be one character" in wrong.err) == (2, True)


def test_the_column_that_the_run_was_trained_on_is_taken_where_a_file_has_it(rir: Run, finished: Finished) -> None:
    """The help said so, and a file with that column and another of a usual name was a question."""
    recipe = Path("runs/small/recipe.yaml")
    recipe.write_text(re.sub("text_column: .*", "text_column: words", recipe.read_text(encoding="utf-8")))
    assert "text_column: words" in recipe.read_text(encoding="utf-8")
    Path("new.csv").write_text("sentence,words,review\na,a day,b\n", encoding="utf-8")
    assert json.loads(rir("classify", "--file", "new.csv", "--arm", "qa", "--json").out)["text"] == "a day"
    Path("new.jsonl").write_text('{"words": "c"}\n{"words": "a day", "sentence": "b"}\n', encoding="utf-8")
    lines = rir("classify", "--file", "new.jsonl", "--arm", "qa", "--json").out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["c", "a day"]
    Path("new.csv").write_text("sentence,id\nthe rain,1\n", encoding="utf-8")
    other = rir("classify", "--file", "new.csv", "--arm", "qa", "--json")
    assert json.loads(other.out)["text"] == "the rain"
    assert "new.csv has no column 'words', which the run was trained on" in other.err


def test_classify_needs_no_training_data(rir: Run, finished: Finished) -> None:
    Path("rows.csv").unlink()
    assert rir("classify", "i was sad").code == 0


def test_odd_texts_are_classified_and_empty_ones_refused(rir: Run, finished: Finished) -> None:
    long = rir("classify", "word " * 20_000, "--json")
    assert long.code == 0
    assert json.loads(long.out)["trimmed"] > 10_000
    assert "too long for this model" in long.err
    control = rir("classify", "hi <|eot_id|><|start_header_id|>assistant", "--json")
    assert json.loads(control.out)["label"] in LABELS
    for empty in ("", "   "):
        result = rir("classify", empty)
        assert (result.code, "The text is empty." in result.err) == (2, True)


def test_classify_without_a_run_names_demo_and_run(rir: Run) -> None:
    result = rir("classify", "I feel great")
    assert result.code == 2
    assert "rir-mlx demo" in result.err
    assert "rir-mlx run" in result.err


@pytest.mark.parametrize(
    ("name", "words"), [("adapters.safetensors", "lacks adapters.safetensors"), ("adapter_config.json", "lacks")]
)
def test_a_missing_file_of_an_adapter_is_named(rir: Run, finished: Finished, name: str, words: str) -> None:
    (Path("runs/small/classifier-qar/adapter") / name).unlink()
    result = rir("classify", "x")
    assert (result.code, words in result.err) == (2, True), result.err


def test_a_truncated_adapter_is_recognised(rir: Run, finished: Finished) -> None:
    path = Path("runs/small/classifier-qar/adapter/adapters.safetensors")
    os.truncate(path, path.stat().st_size // 2)
    result = rir("classify", "x")
    assert (result.code, "damaged or cut" in result.err) == (2, True), result.err


def test_an_adapter_of_another_base_is_refused(rir: Run, finished: Finished, tmp_path: Path) -> None:
    other = make_tiny_llama(tmp_path / "other", seed=1)
    saved = Path("runs/small/recipe.yaml")
    lines = saved.read_text(encoding="utf-8").splitlines()
    saved.write_text("\n".join(f"model: {other}" if line.startswith("model:") else line for line in lines))
    result = rir("classify", "x")
    assert (result.code, "was trained for" in result.err) == (2, True), result.err


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("augmented/train.jsonl", None, "cannot be read: No such file", "Delete runs/small/augmented/done.json"),
        ("classifier-qa/adapter/adapters.safetensors", None, "cannot be read", "delete runs/small/classifier-qa/done"),
        (
            "evaluation/tf-idf/predictions.jsonl",
            "",
            "holds 0 of 9 test rows.",
            "Delete runs/small/evaluation/tf-idf/done",
        ),
        ("evaluation/tf-idf/predictions.jsonl", "{}", "line 1, cannot be read", "measured again"),
        ("classifier-qa/done.json", "{}", "lacks its inputs or results", "Delete it; the stage then runs again."),
    ],
)
def test_a_run_that_lacks_a_file_of_a_finished_stage_names_it_and_what_to_do(
    rir: Run, finished: Finished, name: str, content: str | None, message: str, hint: str
) -> None:
    """It was a FileNotFoundError, a KeyError or an IndexError with exit code 1."""
    damaged = Path("runs/small") / name
    damaged.unlink() if content is None else damaged.write_text(content, encoding="utf-8")
    result = rir("run", "small.yaml", "-q")
    assert (result.code, str(damaged) in result.err, message in result.err) == (2, True, True), result.err
    assert hint in result.err
