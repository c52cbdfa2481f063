"""Whole files classified: every row and cell survives, and a kill at any moment changes no byte of what comes out."""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rir_mlx.classification.files import BulkOptions, BulkResult, classify_file
from rir_mlx.classification.scores import Prediction
from rir_mlx.errors import DataError, Failure, UserError
from rir_mlx.progress import Silent
from rir_mlx.storage import resumable_file

LABELS = ("joy", "sadness", "anger")
SMALL = BulkOptions(chunk=2)


def answer(text: str) -> Prediction:
    """A label that the text decides, by 0.5 to 0.6."""
    number = zlib.crc32(text.encode())
    chances = [0.5 + number % 11 / 100, 0.3, 0.2 - number % 11 / 100]
    names = [LABELS[(number + place) % 3] for place in range(3)]
    return Prediction(names[0], dict(zip(names, chances, strict=True)), 0.9, f'because "{text[:9]}",\nas said')


def classify(texts: Sequence[str]) -> list[Prediction]:
    return [answer(text) for text in texts]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Heard(Silent):
    """What was said and warned."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    warn = say


def make_rows(path: Path, count: int) -> Path:
    path.write_text("id,text\n" + "".join(f'{n},"text {n}, or so"\n' for n in range(count)), encoding="utf-8")
    return path


# what comes out


def test_a_csv_keeps_its_cells_as_they_stand_and_gets_three_more(tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    raw = '\ufeff"id";text;note\r\n007;"two\r\nlines; and ""quotes""";"kept"\r\n\r\n8;plain;é\r\n'
    source.write_text(raw, encoding="utf-8", newline="")
    result = classify_file(source, target, classify, SMALL)
    first, second = answer('two\r\nlines; and "quotes"'), answer("plain")
    assert target.read_bytes().decode() == (
        '\ufeff"id";text;note;label;probability;reasoning\r\n'
        f'007;"two\r\nlines; and ""quotes""";"kept";{first.label};{first.probabilities[first.label]};'
        '"because ""two\r\nline"",\nas said"\r\n'
        f'8;plain;é;{second.label};{second.probabilities[second.label]};"because ""plain"",\nas said"\r\n'
    )
    assert (result.rows, result.classified, result.resumed) == (2, 2, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_jsonl_keeps_what_a_parser_would_change(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        '{"text": "a", "x": 1.10, "big": 12345678901234567890123, "half": "\\ud83d"}',
        '{"text":"b","y":{"z":[ ]} }',
    ]
    source.write_text("\n\n".join(lines), encoding="utf-8")
    classify_file(source, target, classify)
    out = target.read_text(encoding="utf-8").splitlines()
    assert out[0].startswith(lines[0][:-1] + ', "label": ')
    assert out[1].startswith('{"text":"b","y":{"z":[ ]}, "label": ')
    assert [row["label"] for row in objects(target)] == [answer("a").label, answer("b").label]
    assert list(objects(target)[1]) == ["text", "y", "label", "probability", "reasoning"]


@pytest.mark.parametrize("suffix", [".txt", ".parquet"])
def test_lines_and_parquet_come_out_as_jsonl(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / "out.jsonl"
    texts = ["a", "", "b ☺"]
    if suffix == ".txt":
        source.write_text("\n".join(texts), encoding="utf-8")
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"text": texts, "score": [1.5, float("nan"), None]}), source)
    classify_file(source, target, classify, SMALL)
    rows = objects(target)
    assert [(row["text"], row["label"]) for row in rows] == [
        ("a", answer("a").label),
        ("", None),
        ("b ☺", answer("b ☺").label),
    ]
    if suffix == ".parquet":
        assert [row["score"] for row in rows] == [1.5, None, None]


def test_another_format_than_the_sources_is_refused(tmp_path: Path) -> None:
    source = make_rows(tmp_path / "in.csv", 3)
    with pytest.raises(UserError, match=r"comes out as CSV(.|\n)*Name it out.csv"):
        classify_file(source, tmp_path / "out.jsonl", classify)
    with pytest.raises(UserError, match="is the file that is read"):
        classify_file(source, source, classify, BulkOptions(force=True))


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("text,label", ["predicted_label", "predicted_probability", "predicted_reasoning"]),
        ("text,reasoning,predicted_label", ["predicted2_label", "predicted2_probability", "predicted2_reasoning"]),
        ("text,Label", ["label", "probability", "reasoning"]),
    ],
)
def test_columns_of_the_same_name_are_never_lost(tmp_path: Path, header: str, names: list[str]) -> None:
    source, heard = tmp_path / "in.csv", Heard()
    source.write_text(header + "\n" + ",".join("abc"[: header.count(",") + 1]) + "\n", encoding="utf-8")
    classify_file(source, tmp_path / "out.csv", classify, SMALL, heard)
    (row,) = table(tmp_path / "out.csv")
    assert list(row) == header.split(",") + names
    assert list(row.values())[: header.count(",") + 1] == list("abc"[: header.count(",") + 1])
    assert any(names[0] in said for said in heard.said) == (names[0] != "label")


def test_a_key_of_a_late_json_row_clashes_too(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\n{"text": "b", "probability": 5}\n', encoding="utf-8")
    classify_file(source, tmp_path / "out.jsonl", classify)
    rows = objects(tmp_path / "out.jsonl")
    assert rows[1]["probability"] == 5
    assert rows[0]["predicted_label"] == answer("a").label


def test_the_next_labels_and_their_probabilities(tmp_path: Path) -> None:
    options = BulkOptions(top_k=4, chunk=2)
    classify_file(make_rows(tmp_path / "in.csv", 3), tmp_path / "out.csv", classify, options)
    for row in table(tmp_path / "out.csv"):
        expected = sorted(answer(row["text"]).probabilities.items(), key=lambda pair: -pair[1])
        assert [(row["label"], float(row["probability"]))] == [(expected[0][0], pytest.approx(expected[0][1]))]
        for place in (2, 3):
            assert row[f"label_{place}"] == expected[place - 1][0]
            assert float(row[f"probability_{place}"]) == pytest.approx(expected[place - 1][1], abs=1e-6)
        assert row["label_4"] == row["probability_4"] == ""
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    classify_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", classify, BulkOptions(top_k=2))
    (row,) = objects(tmp_path / "out.jsonl")
    assert row["top"][0]["label"] == row["label"]
    assert len(row["top"]) == 2


def test_below_the_threshold_there_is_no_label_but_a_probability(tmp_path: Path) -> None:
    options = BulkOptions(threshold=0.55, chunk=7)
    result = classify_file(make_rows(tmp_path / "in.csv", 40), tmp_path / "out.csv", classify, options)
    rows = table(tmp_path / "out.csv")
    for row in rows:
        sure = max(answer(row["text"]).probabilities.values())
        assert float(row["probability"]) == pytest.approx(sure, abs=1e-6)
        assert (row["label"] == "") == (sure < 0.55) == (row["abstained"] == "true")
    assert 0 < result.abstained == sum(row["label"] == "" for row in rows) < 40
    assert result.labels.total() == 40 - result.abstained
    with pytest.raises(UserError, match="from 0 to 1"):
        BulkOptions(threshold=1.5)


def test_rows_without_a_text_keep_their_place_and_are_counted(tmp_path: Path) -> None:
    source, target, heard = tmp_path / "in.jsonl", tmp_path / "out.jsonl", Heard()
    given = [{"text": "a"}, {"text": " "}, {"n": 1}, {"text": 5}, {"text": None}, {"text": "b"}, {"text": 6}]
    source.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    result = classify_file(source, target, classify, BulkOptions(threshold=0.1, chunk=3), heard)
    rows = objects(target)
    assert [row["label"] is None for row in rows] == [False, True, True, True, True, False, True]
    assert rows[2] == {"n": 1, "label": None, "probability": None, "reasoning": None, "abstained": None}
    assert result.without_text == {"the text is empty": 1, "no text": 2, "the text is not a string": 2}
    assert "5 of 7 rows have no label" in heard.said[-1]


def test_a_file_without_any_text_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,\n2, \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no row has a text in the column 'text': the text is empty \(2\)"):
        classify_file(tmp_path / "in.csv", tmp_path / "out.csv", classify)
    assert os.listdir(tmp_path) == ["in.csv"]


@pytest.mark.parametrize(
    ("name", "raw", "fault"),
    [
        ("in.csv", b"id,text\n1,a\n2\n3,c\n4,d,e\n", "row 3: 1 field where the header has 2\n  row 5: 3 fields"),
        ("in.csv", b"id,text\n1,a\n2,\xe9\n", "is not UTF-8 text (row 3: byte 0xE9"),
        ("in.csv", b'id,text\n1,a\n2,"b\n3,c\n', "row 3: a quotation mark opened here is never closed"),
        ("in.jsonl", b'{"text": "a"}\n{"text": \n[1]\n', "row 2: broken JSON at column"),
        ("in.jsonl", b'[{"text": "a"}]', "one JSON array"),
        ("in.csv", b"\xff\xfei\0d\0", "UTF-16"),
        ("in.csv", b"id,text\n", "has no rows"),
        ("in.csv", b"\n\n", "is empty"),
        ("in.csv", b"id,words\n1,a\n", "no column looks like the text"),
        ("in.xlsx", b"PK", "files ending in .xlsx cannot be read"),
    ],
)
def test_broken_rows_are_named_before_any_text_is_classified(tmp_path: Path, name: str, raw: bytes, fault: str) -> None:
    source = tmp_path / name
    source.write_bytes(raw)
    asked: list[str] = []

    def ask(texts: Sequence[str]) -> list[Prediction]:
        asked.extend(texts)
        return classify(texts)

    with pytest.raises(DataError) as raised:
        classify_file(source, tmp_path / f"out{source.suffix}", ask)
    assert fault in str(raised.value)
    assert asked == []
    assert os.listdir(tmp_path) == [name]


# a job that is stopped


def stopped_after(chunks: int, how: Callable[[], None]) -> Callable[[Sequence[str]], list[Prediction]]:
    seen: list[int] = []

    def ask(texts: Sequence[str]) -> list[Prediction]:
        seen.append(len(texts))
        if len(seen) > chunks:
            how()
        return classify(texts)

    return ask


def fail() -> None:
    raise Failure("The power went out.")


def begin(source: Path, target: Path, chunks: int = 2, options: BulkOptions = SMALL) -> None:
    with pytest.raises(Failure, match="power"):
        classify_file(source, target, stopped_after(chunks, fail), options)


def counted(result: BulkResult) -> dict[str, Any]:
    return vars(result) | {"resumed": 0}


def test_a_stopped_job_goes_on_after_its_last_chunk(tmp_path: Path) -> None:
    source, heard = make_rows(tmp_path / "in.csv", 9), Heard()
    whole = classify_file(source, tmp_path / "whole.csv", classify, SMALL)
    begin(source, tmp_path / "out.csv")
    texts: list[str] = []

    def ask(given: Sequence[str]) -> list[Prediction]:
        texts.extend(given)
        return classify(given)

    with (tmp_path / "out.csv.partial").open("ab") as file:
        file.write(b"half of a li")  # a kill in the middle of a write
    result = classify_file(source, tmp_path / "out.csv", ask, SMALL, heard)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert texts == [f"text {n}, or so" for n in range(4, 9)]
    assert result.resumed == 4
    assert counted(result) == counted(whole)
    assert "goes on after row 4 of 9" in heard.said[0]
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "out.csv", "whole.csv"]


@pytest.mark.parametrize(
    ("change", "why"),
    [("source", "source.sha256 was"), ("identity", "classifier was"), ("top_k", "options.top_k was 1, is 2")],
)
def test_a_job_of_other_inputs_starts_anew_and_says_why(tmp_path: Path, change: str, why: str) -> None:
    source, target, heard = make_rows(tmp_path / "in.csv", 9), tmp_path / "out.csv", Heard()
    begin(source, target)
    options = {"source": SMALL, "identity": BulkOptions(chunk=2, identity="b"), "top_k": BulkOptions(chunk=2, top_k=2)}
    if change == "source":
        source.write_text(source.read_text().replace("text 0", "Text 0"))
    result = classify_file(source, target, classify, options[change], heard)
    assert result.resumed == 0
    assert why in heard.said[0]
    assert "Starting over" in heard.said[0]
    classify_file(source, tmp_path / "whole.csv", classify, options[change])
    assert target.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_file_of_somebody_else_is_replaced_by_force_alone(tmp_path: Path) -> None:
    source, target = make_rows(tmp_path / "in.csv", 9), tmp_path / "out.csv"
    target.write_text("precious")
    with pytest.raises(UserError, match=r"already exists(.|\n)*--force"):
        classify_file(source, target, classify, SMALL)
    assert target.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "out.csv"]
    begin(source, target, options=BulkOptions(chunk=2, force=True))
    assert target.read_text() == "precious"
    result = classify_file(source, target, classify, SMALL)  # the same command without --force goes on
    assert result.resumed == 4
    assert len(table(target)) == 9


def test_a_job_killed_between_its_last_two_steps_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, heard = make_rows(tmp_path / "in.csv", 5), tmp_path / "out.csv", Heard()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda self, missing_ok=False: fail() if target.exists() else None)
        with pytest.raises(Failure, match="power"):
            classify_file(source, target, classify, SMALL)
    assert (tmp_path / "out.csv.partial.json").is_file()
    before = target.stat().st_mtime_ns
    result = classify_file(source, target, lambda texts: pytest.fail("nothing is left"), SMALL, heard)
    assert (result.rows, result.labels.total(), target.stat().st_mtime_ns) == (5, 5, before)
    assert heard.said == [f"{target}: was finished before."]
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "out.csv"]


def test_two_processes_never_write_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = make_rows(tmp_path / "in.csv", 9), tmp_path / "out.csv"
    refused: list[str] = []

    def ask(texts: Sequence[str]) -> list[Prediction]:
        with pytest.raises(UserError, match="Another process is writing") as raised:
            classify_file(source, target, classify, SMALL)
        refused.append(str(raised.value))
        return classify(texts)

    assert classify_file(source, target, ask, SMALL).rows == 9
    assert len(refused) == 5
    # A process that waited to open what another one has finished meanwhile holds the finished file.
    target.unlink()
    monkeypatch.setattr(resumable_file, "lock", lambda file, path: os.replace(path, target))
    with pytest.raises(UserError, match="has just written"):
        classify_file(source, target, classify, SMALL)


def test_a_source_that_changes_under_ones_hands_stops_the_job(tmp_path: Path) -> None:
    source = make_rows(tmp_path / "in.csv", 9)

    def meddle() -> None:
        make_rows(source, 12)

    with pytest.raises(Failure, match="was changed while it was read"):
        classify_file(source, tmp_path / "out.csv", stopped_after(2, meddle), SMALL)


def test_a_missing_folder_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mkdir -p"):
        classify_file(make_rows(tmp_path / "in.csv", 3), tmp_path / "no" / "out.csv", classify)


JOB = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from test_files import classify
    from rir_mlx.classification.files import BulkOptions, classify_file
    from rir_mlx.errors import Failure
    folder, pause = Path(sys.argv[2]), float(sys.argv[3])
    def slowly(texts):
        time.sleep(pause)
        return classify(texts)
    print("begins", flush=True)
    try:
        classify_file(folder / "in.csv", folder / "out.csv", slowly, BulkOptions(chunk=20))
    except Failure as failure:
        print(failure)
"""


def hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def small_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_007, 9_007))


def start(folder: Path, pause: float, before: Callable[[], None] = hear_interrupts) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(JOB), str(Path(__file__).parent), str(folder), str(pause)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    return process


def whole_of(folder: Path) -> bytes:
    classify_file(folder / "in.csv", folder / "whole.csv", classify, BulkOptions(chunk=20))
    return (folder / "whole.csv").read_bytes()


@pytest.mark.slow
def test_kills_at_any_moment_change_no_byte(tmp_path: Path) -> None:
    make_rows(tmp_path / "in.csv", 800)
    expected, rng, kills = whole_of(tmp_path), random.Random(3), 0
    for _ in range(5):
        process = start(tmp_path, 0.005)
        time.sleep(rng.uniform(0.01, 0.3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate(timeout=60)
        if (tmp_path / "out.csv").exists():
            break
        written = (tmp_path / "out.csv.partial").read_bytes() if (tmp_path / "out.csv.partial").exists() else b""
        assert expected.startswith(written)
    assert kills >= 2
    if not (tmp_path / "out.csv").exists() or (tmp_path / "out.csv.partial.json").exists():
        start(tmp_path, 0).communicate(timeout=60)
    assert (tmp_path / "out.csv").read_bytes() == expected
    assert {"in.csv", "out.csv", "whole.csv"} == {name for name in os.listdir(tmp_path) if not name.endswith(".tmp")}


@pytest.mark.slow
def test_an_interrupt_stops_after_a_chunk_and_the_next_one_goes_on(tmp_path: Path) -> None:
    make_rows(tmp_path / "in.csv", 400)
    expected = whole_of(tmp_path)
    process = start(tmp_path, 0.1)
    record = tmp_path / "out.csv.partial.json"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (record.exists() and json.loads(record.read_bytes())["bytes"]):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    held = json.loads(record.read_bytes())
    assert 0 < held["state"]["rows"] < 400
    assert (tmp_path / "out.csv.partial").stat().st_size == held["bytes"]
    start(tmp_path, 0).communicate(timeout=60)
    assert (tmp_path / "out.csv").read_bytes() == expected


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    """A file that may not grow further stops in the middle of a line, as a full disk does."""
    make_rows(tmp_path / "in.csv", 400)
    expected = whole_of(tmp_path)
    out, _ = start(tmp_path, 0, small_disk).communicate(timeout=60)
    assert "What was written before is kept" in out
    assert "same command again" in out
    assert 0 < (tmp_path / "out.csv.partial").stat().st_size <= 9_007
    start(tmp_path, 0).communicate(timeout=60)
    assert (tmp_path / "out.csv").read_bytes() == expected


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    prediction = answer("x")

    def peak(rows: int) -> int:
        source = make_rows(tmp_path / f"in{rows}.csv", rows)
        tracemalloc.start()
        try:
            classify_file(source, tmp_path / f"out{rows}.csv", lambda texts: [prediction] * len(texts))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(5_000), peak(200_000)
    assert large < 3_000_000  # the file alone has 5.6 MB, and its rows as Python objects ten times as much
    assert large < 1.3 * small
