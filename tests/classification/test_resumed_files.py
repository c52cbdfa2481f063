"""Classifying a file is interrupted: a kill at any moment changes no byte of what comes out."""

from __future__ import annotations

import json
import os
import random
import signal
import textwrap
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from file_jobs import SMALL, Heard, answer, classify, make_rows, table
from processes import Running, start_code

from rir_mlx.classification.files import ClassifyFileOptions, ClassifyFileResult, classify_file
from rir_mlx.classification.scores import Prediction
from rir_mlx.errors import Failure, UserError
from rir_mlx.storage import resumable_file


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


def begin(source: Path, target: Path, chunks: int = 2, options: ClassifyFileOptions = SMALL) -> None:
    with pytest.raises(Failure, match="power"):
        classify_file(source, target, stopped_after(chunks, fail), options)


def counted(result: ClassifyFileResult) -> dict[str, Any]:
    return vars(result) | {"resumed": 0}


def test_a_stopped_job_resumes_after_its_last_chunk(tmp_path: Path) -> None:
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
    assert "resuming after row 4 of 9" in heard.said[0]
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "out.csv", "whole.csv"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("source", "the file has changed"),
        ("identity", "classifier was '', is b"),
        ("top_k", "options.top_k was 1, is 2"),
    ],
)
def test_a_job_of_other_inputs_starts_over_and_says_why(tmp_path: Path, change: str, why: str) -> None:
    source, target, heard = make_rows(tmp_path / "in.csv", 9), tmp_path / "out.csv", Heard()
    begin(source, target)
    options = {
        "source": SMALL,
        "identity": ClassifyFileOptions(chunk=2, identity="b"),
        "top_k": ClassifyFileOptions(chunk=2, top_k=2),
    }
    if change == "source":
        source.write_text(source.read_text().replace("text 0", "Text 0"))
    result = classify_file(source, target, classify, options[change], heard)
    assert result.resumed == 0
    assert why in heard.said[0]
    assert "Starting over" in heard.said[0]
    classify_file(source, tmp_path / "whole.csv", classify, options[change])
    assert target.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_another_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    source, target = make_rows(tmp_path / "in.csv", 9), tmp_path / "out.csv"
    target.write_text("precious")
    with pytest.raises(UserError, match=r"already exists(.|\n)*--force"):
        classify_file(source, target, classify, SMALL)
    assert target.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "out.csv"]
    begin(source, target, options=ClassifyFileOptions(chunk=2, force=True))
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
    assert heard.said == [f"{target} is already finished."]
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "out.csv"]


def test_a_finished_file_that_was_moved_away_is_made_anew_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of the finished file was left by a kill. Its count of rows was taken for rows of the new file, which
    began after them, without a header."""
    source, target, heard = make_rows(tmp_path / "in.csv", 5), tmp_path / "out.csv", Heard()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda self, missing_ok=False: fail() if target.exists() else None)
        with pytest.raises(Failure, match="power"):
            classify_file(source, target, classify, SMALL)
    target.rename(tmp_path / "moved.csv")
    result = classify_file(source, target, classify, SMALL, heard)
    assert (result.rows, result.resumed, result.labels.total()) == (5, 0, 5)
    assert target.read_bytes() == (tmp_path / "moved.csv").read_bytes()
    assert heard.said == []
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "moved.csv", "out.csv"]


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
    monkeypatch.setattr(resumable_file.Lock, "acquire", lambda lock: os.replace(lock.path, target))
    with pytest.raises(UserError, match="has just written"):
        classify_file(source, target, classify, SMALL)


def test_a_source_that_changes_meanwhile_stops_the_job(tmp_path: Path) -> None:
    source = make_rows(tmp_path / "in.csv", 9)

    def meddle() -> None:
        make_rows(source, 12)

    with pytest.raises(Failure, match="was changed while it was read"):
        classify_file(source, tmp_path / "out.csv", stopped_after(2, meddle), SMALL)


def test_a_missing_folder_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mkdir -p"):
        classify_file(make_rows(tmp_path / "in.csv", 3), tmp_path / "no" / "out.csv", classify)


JOB = """
    import resource, sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from file_jobs import classify
    from rir_mlx.classification.files import ClassifyFileOptions, classify_file
    from rir_mlx.errors import Failure
    folder, pause, room = Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    if room:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    def slowly(texts):
        time.sleep(pause)
        return classify(texts)
    print("begins", flush=True)
    try:
        classify_file(folder / "in.csv", folder / "out.csv", slowly, ClassifyFileOptions(chunk=20))
    except Failure as failure:
        print(failure)
"""


def start(folder: Path, pause: float, room: int = 0) -> Running:
    """Classify the file in a process of its own, in which a file may have so many bytes."""
    given = (str(Path(__file__).parent), str(folder), str(pause), str(room))
    process = start_code(folder, textwrap.dedent(JOB), *given)
    process.wait_for("begins\n")
    return process


def whole_of(folder: Path) -> bytes:
    classify_file(folder / "in.csv", folder / "whole.csv", classify, ClassifyFileOptions(chunk=20))
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
def test_an_interrupt_stops_after_a_chunk_and_the_next_call_resumes(tmp_path: Path) -> None:
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
    out, _ = start(tmp_path, 0, 9_007).communicate(timeout=60)
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

    small, large = peak(2_000), peak(4_000)
    assert large < 1.1 * small  # 2,000 rows as Python objects have more than a tenth of the 1.1 MB that either takes
