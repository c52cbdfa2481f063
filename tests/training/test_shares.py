"""Of several processes, each generates and scores a share of the rows. What comes out is what one process writes."""

from __future__ import annotations

import shutil
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import write_recipe
from evaluated_run import kept, lines_of
from processes import Running, start_command
from processes.ranks import start_ranks
from tiny import make_tiny_llama

pytestmark = pytest.mark.heavy
RUN = "runs/small"
AUGMENTED = ("train.jsonl", "validation.jsonl", "rejected.jsonl", "stats.json")


@pytest.fixture(params=["torch", "mlx"])
def backend_name(request: pytest.FixtureRequest) -> str:
    if find_spec({"torch": "torch", "mlx": "mlx_lm"}[request.param]) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture
def folder(backend_name: str, tmp_path: Path) -> Path:
    """A run with R-Gen, made by one process. Every third row has a reasoning of its own: whether any that a random
    model writes passes the filters is a matter of the last bits of its numbers."""
    recipe = write_recipe(tmp_path, make_tiny_llama(tmp_path / "model"))
    header, *rows = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    rows = [f"{row},{'' if number % 9 > 2 else f'someone says so {number}'}" for number, row in enumerate(rows)]
    (tmp_path / "rows.csv").write_text("\n".join([f"{header},why", *rows]) + "\n", encoding="utf-8")
    text = recipe.read_text(encoding="utf-8").replace("backend: fake", f"backend: {backend_name}\ndtype: float32")
    text = text.replace("test_size: 9", "test_size: 20, reasoning_column: why").replace("val_size: 6", "val_size: 12")
    text = text.replace("max_tokens: 24}\n", "max_tokens: 24, temperature: 0.8, retries: 1, filters: [copying]}\n", 1)
    text = text.replace("classifier: {", "classifier: {arms: [qra], iters: 4, seeds: [0], ").replace(
        ", epochs: 1}", "}"
    )
    recipe.write_text(text.replace("evaluate: {", "evaluate: {samples: 2, "), encoding="utf-8")
    ended(start_command(tmp_path, "train-rgen", "small.yaml"))
    return tmp_path


def ended(*processes: Running) -> str:
    """What they printed to stderr, the first process first."""
    assert [process.wait(timeout=300) for process in processes] == [0] * len(processes), processes[0].err()
    return "".join(process.err() for process in processes)


def written(folder: Path) -> dict[str, bytes]:
    return {name: (folder / RUN / "augmented" / name).read_bytes() for name in AUGMENTED}


def journals(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / RUN).rglob("*.jsonl") if "rank-" in path.name)


def scores(folder: Path) -> tuple[list[Any], list[list[float]]]:
    """What is cached of each reading, sorted: its key and reasoning, and its label scores."""
    rows = sorted(lines_of(folder / RUN / "evaluation/qra/readings.jsonl"), key=lambda row: row["key"])
    return [[row["key"], row["reasoning"]] for row in rows], [row["scores"] for row in rows]


def test_two_processes_write_what_one_writes_also_after_a_kill(folder: Path, backend_name: str) -> None:
    ended(start_command(folder, "augment", RUN))
    alone = written(folder)
    count = len(lines_of(folder / RUN / "augmented/journal.jsonl"))
    assert count > 40, "some rows are tried again"
    shutil.rmtree(folder / RUN / "augmented")

    said = ended(*start_ranks(folder, backend_name, "augment", RUN))
    assert said.count("2 processes generate reasonings") == said.count("training rows have a reasoning") == 1
    assert written(folder) == alone
    assert len(lines_of(folder / RUN / "augmented/journal.jsonl")) == count, "no row is generated twice"
    assert journals(folder) == []

    shutil.rmtree(folder / RUN / "augmented")
    processes = start_ranks(folder, backend_name, "augment", RUN, "-s", "augment.batch_size=1")
    share = folder / RUN / "augmented/journal.rank-1.jsonl"
    deadline = time.monotonic() + 120
    while not (share.is_file() and share.stat().st_size):
        assert time.monotonic() < deadline, [process.err() for process in processes]
        time.sleep(0.001)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    ended(start_command(folder, "augment", RUN))  # one process goes on with what both have written
    assert written(folder) == alone
    assert journals(folder) == []


def test_two_processes_measure_what_one_measures(folder: Path, backend_name: str) -> None:
    ended(start_command(folder, "augment", RUN))
    ended(start_command(folder, "train-classifier", RUN))
    ended(start_command(folder, "evaluate", RUN))
    run = folder / RUN
    keys, alone = scores(folder)
    comparison = kept(run)
    assert len(keys) > 4 * 32  # directly, after the likeliest and two drawn ones; after swapped and corrupted ones

    for options in ([], ["--force"]):
        if not options:
            shutil.rmtree(run / "evaluation")
        said = ended(*start_ranks(folder, backend_name, "evaluate", RUN, *options))
        assert said.count("evaluation qra: runs") == 1
        assert said.count("qra: validation, reasoning") == said.count("Report →") == 1
        assert "12/12" not in said, "the first process scores a part of the 12 validation rows"
        shared_keys, shared = scores(folder)
        assert shared_keys == keys, "every row is scored once, after the same reasoning"
        np.testing.assert_allclose(shared, alone, rtol=0, atol=1e-5)
        assert kept(run)["verdict"] == comparison["verdict"]
        assert journals(folder) == []
    assert "skipped" in ended(*start_ranks(folder, backend_name, "evaluate", RUN))
