"""Several processes train one model: torchrun with gloo and mlx.launch with its ring, over this machine's loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from processes import Running, client, start_command
from processes.ranks import free_port, start_ranks
from recorder import logged
from safetensors.numpy import load_file
from tiny import make_tiny_llama

pytestmark = pytest.mark.heavy

STEPS = 30


@pytest.fixture(scope="module", params=["torch", "mlx"])
def backend_name(request: pytest.FixtureRequest) -> str:
    if find_spec({"torch": "torch", "mlx": "mlx_lm"}[request.param]) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def folder(backend_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in batches of five, two a step: neither batches nor the epoch's last step divide evenly. A training by one
    process in `one`, and by two in `two`."""
    folder = tmp_path_factory.mktemp(f"ranks-{backend_name}")
    make_tiny_llama(folder / "model")
    labels = {"joy": "i feel happy today", "sadness": "i was sad", "anger": "now i am angry at the rain"}
    rows = [f"{text} {'my friend ' * (n % 5)}{n},{label}\n" for n in range(41) for label, text in labels.items()]
    (folder / "rows.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    (folder / "small.yaml").write_text(
        "model: ./model\nmax_seq_length: 320\ndtype: float32\nlora_parameters: {rank: 4}\n"
        "data: {train: rows.csv, val_size: 16, test_size: 15}\n"
        f"classifier: {{arms: [qa], iters: {STEPS}, batch_size: 5, grad_accumulation_steps: 3, learning_rate: 1e-3, "
        "steps_per_eval: 15, save_every: 2, steps_per_report: 1}\n",
        encoding="utf-8",
    )
    alone = start_command(folder, *command("one", backend_name))
    out = finished(launch(folder, "two", backend_name))
    assert out.count("classifier qa: runs") == 1, "one process speaks"
    assert alone.wait(timeout=300) == 0, alone.err()
    return folder


def command(runs: str, backend: str) -> list[str]:
    return ["train-classifier", "small.yaml", "--runs", runs, "--backend", backend]


def launch(folder: Path, runs: str, backend: str) -> subprocess.Popen[str]:
    """Two processes, by torchrun or mlx.launch. Each starts warm, with the environment that the launcher gave it."""
    ours, scripts = [*client(), *command(runs, backend)], Path(sys.executable).parent
    launchers = {
        "torch": [str(scripts / "torchrun"), "--standalone", "--nproc-per-node", "2", *ours[1:]],
        "mlx": [str(scripts / "mlx.launch"), "-n", "2", "--starting-port", str(free_port()), "--", *ours],
    }
    return subprocess.Popen(
        launchers[backend],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def warm(folder: Path, runs: str, backend: str) -> list[Running]:
    return start_ranks(folder, backend, *command(runs, backend))


def finished(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def test_two_ranks_take_the_steps_of_one(folder: Path, backend_name: str) -> None:
    """Disjoint rows, gradients summed by the tokens of the whole step: the same trajectory, up to rounding."""
    alone, together = (folder / name / "small/classifier-qa" for name in ("one", "two"))
    assert len(logged(alone)) == len(logged(together)) == STEPS
    for key in ("loss", "grad_norm", "learning_rate"):
        np.testing.assert_allclose(
            [line[key] for line in logged(alone)], [line[key] for line in logged(together)], rtol=1e-5
        )
    losses = [
        [line["validation_loss"] for line in logged(stage) if "validation_loss" in line] for stage in (alone, together)
    ]
    assert len(losses[0]) == STEPS / 15
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    ours, theirs = (load_file(stage / "adapter/adapters.safetensors") for stage in (alone, together))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=0, atol=1e-5, err_msg=name)


def test_a_rank_that_dies_ends_the_job_which_then_resumes(folder: Path, backend_name: str) -> None:
    stage = folder / "killed/small/classifier-qa"
    processes = warm(folder, "killed", backend_name)
    deadline = time.monotonic() + 120
    while not (stage / "checkpoints/step-00000004").is_dir():
        assert [process.poll() for process in processes] == [None, None]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    processes[1].send_signal(signal.SIGKILL)
    assert [process.wait(timeout=120) for process in processes] == [1, -signal.SIGKILL]
    assert "Another process of this training has died" in processes[0].err()
    assert not (stage / "done.json").exists()
    recipe = (folder / "small.yaml").read_text()
    (folder / "small.yaml").write_text(recipe.replace("learning_rate: 1e-3", "learning_rate: 0.5"))
    refused = warm(folder, "killed", backend_name)
    assert [process.wait(timeout=120) for process in refused] == [2, 2]
    first, other = (process.out() + process.err() for process in refused)
    assert "learning_rate was 0.001, is 0.5" in first
    assert "is gone" not in first
    assert other == "", "the first process speaks for both"
    (folder / "small.yaml").write_text(recipe)
    resumed = warm(folder, "killed", backend_name)
    assert [process.wait(timeout=300) for process in resumed] == [0, 0], resumed[0].err()
    assert "Resuming from step" in resumed[0].err()
    name = "adapter/adapters.safetensors"
    assert (stage / name).read_bytes() == (folder / "two/small/classifier-qa" / name).read_bytes()
    assert logged(stage) == logged(folder / "two/small/classifier-qa")
    assert not list(stage.rglob("*.tmp"))


def test_a_user_mistake_is_reported_once(folder: Path, backend_name: str) -> None:
    table = (folder / "rows.csv").read_text(encoding="utf-8")
    (folder / "rows.csv").write_text("text,label\n", encoding="utf-8")
    processes = warm(folder, "runs", backend_name)
    for process in processes:
        process.wait(timeout=120)
    (folder / "rows.csv").write_text(table, encoding="utf-8")
    out = "".join(process.err() for process in processes)
    assert out.count("error:") == 1
    assert "rows.csv" in out
