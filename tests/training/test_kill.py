"""A command killed at any moment, run again, ends as if it had never been killed. Real processes, real signals."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
from processes import Running, start_command
from tiny import make_tiny_llama

pytestmark = pytest.mark.slow

LABELS = {"joy": "i feel happy today", "sadness": "i was sad", "anger": "now i am angry at the rain"}

MOMENTS = ("rgen", "augmented/journal.jsonl", "classifier-qra", "evaluation/qra/readings.jsonl")
"""What is there when the command is about to be killed, up to 0.1 s later: it is in its first, middle, last stages."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a recipe on the fake backend, enough rows for a second of work."""
    make_tiny_llama(tmp_path / "model")
    rows = [(f"{text} {n}", label) for n in range(40) for label, text in LABELS.items()]
    table = "".join(f"{text},{label}\n" for text, label in rows)
    (tmp_path / "rows.csv").write_text("text,label\n" + table, encoding="utf-8")
    triples = [{"question": t, "answer": label, "reasoning": f"because {t}"} for t, label in rows[:40]]
    (tmp_path / "triples.jsonl").write_text("".join(json.dumps(t) + "\n" for t in triples), encoding="utf-8")
    (tmp_path / "small.yaml").write_text(
        "model: ./model\nbackend: fake\nmax_seq_length: 320\ndata: {train: rows.csv, val_size: 15, test_size: 30}\n"
        "reasoning: {source: triples.jsonl, val_size: 15}\nrgen: {epochs: 1}\nclassifier: {epochs: 1}\n"
        "augment: {max_tokens: 24}\nevaluate: {max_reasoning_tokens: 24}\n",
        encoding="utf-8",
    )
    return tmp_path


def start(folder: Path, runs: str, *more: str) -> Running:
    return start_command(folder, "run", "small.yaml", "--runs", runs, *more)


def artifacts(run: Path) -> dict[str, bytes]:
    """What a run ends with, without the journal, times and speeds."""
    names = [*run.glob("*/adapter/*.safetensors"), *run.glob("augmented/*.jsonl"), *run.glob("evaluation/**/*.jsonl")]
    kept = (path for path in names if path.name not in ("journal.jsonl", "readings.jsonl"))
    return {str(path.relative_to(run)): path.read_bytes() for path in kept}


def read_once(run: Path) -> dict[str, dict[str, object]]:
    """What was read of each text in each way, without the time that it took, by file and key."""
    found: dict[str, dict[str, object]] = {}
    for path in run.glob("evaluation/*/readings.jsonl"):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found[path.parent.name] = {line["key"]: {**line, "seconds": 0} for line in lines}
        assert len(found[path.parent.name]) == len(lines)
    return found


def test_a_run_killed_again_and_again_ends_with_the_same_rows_and_weights(folder: Path) -> None:
    assert start(folder, "whole", "-q").wait(timeout=120) == 0
    rng, kills = random.Random(7), 0
    for moment in MOMENTS:
        process = start(folder, "killed", "-q")
        while process.poll() is None and not list((folder / "killed/small").glob(moment)):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(timeout=60)
    assert kills >= 2
    assert start(folder, "killed", "-q").wait(timeout=120) == 0
    whole, killed = artifacts(folder / "whole" / "small"), artifacts(folder / "killed" / "small")
    assert len(whole) >= 10
    assert killed == whole
    readings = read_once(folder / "whole/small")
    assert len(readings) == 4
    assert read_once(folder / "killed/small") == readings
    keys = [json.loads(line)["key"] for line in (folder / "killed/small/augmented/journal.jsonl").open()]
    assert len(keys) == len(set(keys)) == 90
    assert not list((folder / "killed" / "small").rglob("*.tmp"))


def test_an_interrupt_says_how_to_go_on(folder: Path) -> None:
    process = start(folder, "stopped")
    deadline = time.monotonic() + 120
    while "R-Gen: runs" not in process.err():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.err()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in err
    assert "Traceback" not in err
