"""`rir-mlx classify`: lines as they come, whole files, thresholds and the next labels."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import LABELS, Finished, Run, command, copy_run, write_csv, write_recipe
from processes import client, made_once
from rir_cli.answering import lean_start
from rir_cli.answering.standard_input import arriving_lines
from rir_cli.app import _goes_on

from rir_mlx.classification import loading
from rir_mlx.classification.scores import Prediction
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.errors import UserError
from rir_mlx.progress import Silent
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.statistics.calibration import NO_ANSWER


class Fake:
    """A classifier that is half sure of `joy`, and keeps what it was asked."""

    arm = "qra"
    reasons_first = True
    answers_twice = False
    task = ClassificationTask(dict.fromkeys(LABELS, ""), "Which?", 320, 24)

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], PredictOptions]] = []

    def answer_from(self, options: PredictOptions) -> float | None:
        return None

    def is_calibrated(self, options: PredictOptions) -> bool:
        return True

    def predict(self, texts: Sequence[str], how: PredictOptions, *, on_text: Any = None) -> list[Prediction]:
        self.asked.append((list(texts), how))
        if on_text is not None:
            on_text("because")
        probabilities = {"joy": 0.5, "sadness": 0.2, "anger": 0.3}
        return [Prediction("joy", probabilities, 0.9, "because", trimmed=int(text == "long")) for text in texts]


@pytest.fixture(scope="session")
def classifier_once(tiny: Path) -> Path:
    def train(folder: Path) -> None:
        assert command(folder, "train-classifier", str(write_recipe(folder, tiny)), "--arm", "qa", "-q").code == 0

    return made_once("trained qa", train)


@pytest.fixture
def fake(rir: Run, recipe: Path, classifier_once: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A run with a classifier, which this one stands in for."""
    copy_run(classifier_once, recipe.parent)
    answers = Fake()
    monkeypatch.setattr(loading, "load_classifier", lambda run, model, arm: answers)
    return answers


def test_options_reach_the_classifier(rir: Run, fake: Fake) -> None:
    assert rir("classify", "a day", "--reason", "auto", "--samples", "3", "-q").code == 0
    ((texts, how),) = fake.asked
    assert (texts, how.reason, how.samples) == (["a day"], "auto", 3)
    assert rir("classify", "a day", "--reason", "sometimes").code == 2
    assert rir("classify", "a day", "--threshold", "2").code == 2


def test_one_text_prints_its_reasoning_and_so_many_labels_as_are_wanted(
    rir: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rir("classify", "a day", "--top-k", "2", "--threshold", "0.6")
    assert result.out.splitlines()[0] == "because"
    assert "anger" in result.out
    assert "sadness" not in result.out
    assert "No label reaches the threshold of 0.6" in result.err
    monkeypatch.setattr(fake, "answer_from", lambda options: NO_ANSWER)
    result = rir("classify", "a day")
    assert "No text gets a label" in result.err
    assert "threshold of 2" not in result.err
    values = json.loads(rir("classify", "a day", "--json", "--top-k", "2", "--threshold", "0.6").out)
    assert (values["label"], values["abstained"]) == (None, True)
    assert values["top"] == [{"label": "joy", "probability": 0.5}, {"label": "anger", "probability": 0.3}]
    assert values["probabilities"] == {"joy": 0.5, "sadness": 0.2, "anger": 0.3}


def test_lines_hold_label_probability_and_text(rir: Run, fake: Fake) -> None:
    assert rir("classify", stdin="a  day\n\n  \nlong\r\n").out == "joy\t0.500\ta day\njoy\t0.500\tlong\n"
    wanted = rir("classify", "-", "--top-k", "2", "--threshold", "0.6", stdin="long")
    assert wanted.out == "\t0.500\tanger\t0.300\tlong\n"
    assert "whose ends were cut off: 1." in wanted.err
    lines = rir("classify", "--jsonl", stdin="a\nb\n").out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a", "b"]
    assert rir("classify", stdin="\n \n").code == 2


@pytest.mark.slow
def test_lines_of_a_pipe_are_answered_as_they_come_and_in_order(finished: Finished, tmp_path: Path) -> None:
    """A pipe that stays open: the first answers are there before the last texts are."""
    command = [*client(), "classify", "--arm", "qa", "--jsonl", "-q"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"first\nsecond\nthi")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["text"] == "first"
        assert json.loads(process.stdout.readline())["text"] == "second"
        process.stdin.write(b"rd\n" + b"".join(b"row %d\n" % n for n in range(600)) + b"caf\xe9")
        out, _ = process.communicate(timeout=60)
    texts = [json.loads(line)["text"] for line in out.splitlines()]
    assert texts == ["third", *(f"row {n}" for n in range(600)), "caf\ufffd"]
    assert process.returncode == 0


def test_a_table_keeps_its_columns_and_gets_its_labels(rir: Run, finished: Finished) -> None:
    write_csv(Path("more.csv"), [("a day", "joy"), ("", "anger"), ("home", "joy")])
    done = rir("classify", "--file", "more.csv", "--output", "out.csv", "--threshold", "0", "--top-k", "9")
    assert done.code == 0, done.err
    assert done.out == ""
    assert "1 of 3 rows have no label: the text is empty (1)" in done.err
    assert "predicted_label" in done.err
    with open("out.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["joy", "anger", "joy"]
    assert [row["predicted_label"] in LABELS for row in rows] == [True, False, True]
    assert "predicted_label_3" in rows[0]
    assert "predicted_label_4" not in rows[0]
    single = json.loads(rir("classify", "a day", "--json").out)
    assert rows[0]["predicted_label"] == single["label"]
    assert float(rows[0]["predicted_probability"]) == pytest.approx(max(single["probabilities"].values()), abs=1e-6)
    again = rir("classify", "--file", "more.csv", "--output", "out.csv")
    assert (again.code, "--force" in again.err) == (2, True)
    forced = rir("classify", "--file", "more.csv", "-o", "out.csv", "--force", "--json", "-q")
    values = json.loads(forced.out)
    assert (values["output"], values["rows"], values["classified"], values["abstained"]) == ("out.csv", 3, 2, 0)


def test_a_stopped_file_goes_on_unless_the_classifier_is_another(
    rir: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(Path("more.csv"), [(f"text {n}", "joy") for n in range(3000)])
    real = fake.predict

    def interrupted(texts: Sequence[str], how: PredictOptions, **more: Any) -> list[Prediction]:
        if len(fake.asked) == 2:
            raise KeyboardInterrupt
        return real(texts, how, **more)

    command = ("classify", "--file", "more.csv", "--output", "out.csv")
    with monkeypatch.context() as patched:
        patched.setattr(fake, "predict", interrupted)
        stopped = rir(*command)
    assert (stopped.code, "the same command continues" in stopped.err) == (130, True)
    other = rir(*command, "--samples", "2")
    assert "the classifier has changed" in other.err
    assert "Starting over" in other.err
    assert other.code == 0
    os.remove("out.csv")
    fake.asked.clear()
    with monkeypatch.context() as patched:
        patched.setattr(fake, "predict", interrupted)
        assert rir(*command).code == 130
    assert "resuming after row 2,048 of 3,000" in rir(*command).err
    assert [len(texts) for texts, _ in fake.asked] == [1024, 1024, 952]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a day", "--file", "rows.csv"), "not both"),
        (("a day", "--output", "out.csv"), "--output is for the rows of a file"),
        (("--file", "nothing.csv", "--output", "out.csv"), "there is no file nothing.csv"),
        (("--file", "nothing.csv"), "there is no file nothing.csv"),
        (("--file", "rows.csv", "--output", "out.jsonl"), "Name it out.csv"),
    ],
)
def test_what_cannot_be_meant_is_refused(rir: Run, fake: Fake, arguments: tuple[str, ...], words: str) -> None:
    result = rir("classify", *arguments)
    assert (result.code, words in result.err) == (2, True), result.err
    assert fake.asked == []


def test_the_name_of_a_file_is_taken_for_the_file(rir: Run, fake: Fake) -> None:
    """It was classified as a text of two words."""
    write_csv(Path("new.csv"), [("a day", "joy"), ("long", "joy")])
    result = rir("classify", "new.csv")
    assert result.out == "joy\t0.500\ta day\njoy\t0.500\tlong\n"
    assert "new.csv is a file" in result.err


def test_how_a_workbook_is_read_is_told_also_without_an_output(rir: Run, fake: Fake) -> None:
    from openpyxl import Workbook

    book = Workbook()
    for row in (["text"], ["a day"], ["long"]):
        book.active.append(row)
    book.active.row_dimensions[3].hidden = True
    book.save("new.xlsx")
    assert "note: new.xlsx: 1 row is hidden, and read" in rir("classify", "--file", "new.xlsx").err
    assert "hidden" not in rir("classify", "--file", "new.xlsx", "-q").err


def test_a_long_text_that_ends_like_a_file_is_a_text(rir: Run, fake: Fake) -> None:
    """It ended with "File name too long"."""
    text = "i wrote it all down, every day of it, " * 10 + "in my notes.txt"
    assert rir("classify", text, "-q").code == 0
    assert fake.asked[-1][0] == [text]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b"first\nsec\0ond\n", "Line 2 of standard input holds a NUL byte"),
        (b"\xff\xfea\0\n\0", "Standard input is UTF-16 text"),
        (b"\xfe\xff\0a\0\n", "Standard input is UTF-16 text"),
        (b"a\0\n\0", "Line 1 of standard input holds a NUL byte"),
    ],
)
def test_lines_that_are_no_text_are_refused(tmp_path: Path, given: bytes, words: str) -> None:
    """UTF-16 was classified as halves of its characters."""
    (tmp_path / "given").write_bytes(given)
    with (tmp_path / "given").open(encoding="utf-8") as stream, pytest.raises(UserError, match=words) as raised:
        list(arriving_lines(stream, 4, Silent()))
    assert raised.value.hint


def test_empty_lines_that_get_no_label_are_counted(tmp_path: Path) -> None:
    """Whoever puts labels beside lines must know that they do not pair up."""
    (tmp_path / "given").write_bytes(b"first\n\n  \nlast\n")
    told: list[str] = []
    progress = Silent()
    progress.warn = told.append  # type: ignore[method-assign]
    with (tmp_path / "given").open(encoding="utf-8") as stream:
        assert [text for texts in arriving_lines(stream, 4, progress) for text in texts] == ["first", "last"]
    assert told == ["Left out of standard input: 2 empty lines."]


def test_an_argument_that_is_not_utf8_is_refused(rir: Run, fake: Fake) -> None:
    """It was a TypeError."""
    result = rir("classify", "caf\udce9", "-q")
    assert (result.code, "The text is not UTF-8" in result.err, fake.asked) == (2, True, []), result.err


def test_a_folder_to_write_is_refused_before_the_work(rir: Run, fake: Fake) -> None:
    write_csv(Path("in.csv"), [("a", "joy")])
    Path("od.csv").mkdir()
    for target in ("od.csv", ""):
        result = rir("classify", "--file", "in.csv", "-o", target, "--force", "-q")
        assert (result.code, "is a folder" in result.err, fake.asked) == (2, True, []), result.err


def test_at_a_terminal_it_asks_for_texts_until_the_input_ends(
    rir: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter(["a day", "", "long"])

    def answer(prompt: str) -> str:
        assert prompt == "Text (Ctrl-D ends): "
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert rir("classify", "-q").code == 0
    assert [texts for texts, _ in fake.asked] == [["a day"], ["long"]]


def test_a_text_that_fits_no_label_is_said_to(rir: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fake.predict
    monkeypatch.setattr(
        fake, "predict", lambda *given, **named: [replace(p, mass=0.005) for p in real(*given, **named)]
    )
    assert "together they hold 0.50% of the model's probability" in rir("classify", "a day").err
    assert "Texts that may fit no label" in rir("classify", stdin="a\nb\n").err
    write_csv(Path("new.csv"), [("a day", "joy"), ("long", "joy")])
    said = rir("classify", "--file", "new.csv", "--output", "out.csv").err
    assert "less than 50% of the model's probability: 2." in said


def test_a_process_of_its_own_starts_without_packages_that_it_does_not_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers imports every package that it finds; in another program's process it is left to."""
    (tmp_path / "asked_about_packages.py").write_text(
        "def is_scipy_available():\n    return True\ndef is_here():\n    return True\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lean_start, "_ASKED", "asked_about_packages")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    before = list(sys.meta_path)
    lean_start.start_lean("torch")
    assert sys.meta_path == before, "the process is pytest's"
    monkeypatch.setattr(lean_start, "_owns_process", lambda: True)
    lean_start.start_lean("fake")
    assert sys.meta_path == before
    lean_start.start_lean("torch")
    asked = importlib.import_module("asked_about_packages")
    assert (asked.is_scipy_available(), asked.is_here()) == (False, True)
    assert not hasattr(asked, "is_accelerate_available"), "what a release does not ask is not answered"
    assert sys.meta_path == before


@pytest.mark.parametrize(
    ("given", "goes_on"),
    [
        (["run", "mine.yaml"], True),
        (["classify", "--file", "a.csv", "--output=b.csv"], True),
        (["classify", "--file", "a.csv", "-o", "b.csv"], True),
        (["classify", "--file", "a.csv"], False),
        (["export", "demo"], False),
        (["init", "a.csv", "-o", "a.yaml"], False),
        ([], False),
    ],
)
def test_only_what_the_same_command_continues_is_said_to_continue(given: list[str], goes_on: bool) -> None:
    """`-o` alone was taken for it, and a run that is called as a command is."""
    assert _goes_on(given) is goes_on
