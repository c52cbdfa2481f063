"""A training that is killed and resumed, beside one that is not: `python -m benchmarks.gpu.resume JSON`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import TrainingState
from rir_mlx.prompting.batches import step_batches
from rir_mlx.prompting.codec import Codec
from rir_mlx.speed.job import OPTIMIZER, RATE, SPEC
from rir_mlx.speed.rows import DATE, make_groups, make_rows

STEPS, KILLED_AFTER = 6, 3


def train(given: dict[str, Any], state: Path) -> tuple[str, list[float]]:
    """The steps after the stored state, if there is one. With `kill`, this process dies by SIGKILL once it has stored
    its state. Returns a digest of the weights and moments, and the seconds of each step."""
    from safetensors.numpy import load_file, save_file

    if given["deterministic"]:
        import torch

        torch.use_deterministic_algorithms(True)
    model: Any = open_backend("torch").load(Path(given["folder"]), dtype=given["dtype"])
    model.add_adapter(SPEC, seed=0)
    model.configure_optimizer(OPTIMIZER)
    examples, _ = make_rows(Codec(Path(given["folder"]), DATE), "qra", given["rows"] * STEPS)
    groups, first, seconds = make_groups(examples, given["rows"]), 0, []
    if state.is_file():
        model.load_training_state(TrainingState(load_file(state)))
        first = KILLED_AFTER
    for step, group in enumerate(groups[first:STEPS], first + 1):
        start = time.perf_counter()
        model.train_step(step_batches(examples, [group]), RATE, seed=step)
        seconds.append(time.perf_counter() - start)
        if given.get("kill") and step == KILLED_AFTER:
            save_file(dict(model.training_state().tensors), state)
            os.kill(os.getpid(), signal.SIGKILL)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.training_state().tensors.items()):
        digest.update(name.encode() + tensor.tobytes())
    return digest.hexdigest(), seconds


def main() -> None:
    given = json.loads(sys.argv[1])
    if "state" in given:
        digest, seconds = train(given, Path(given["state"]))
        print(json.dumps({"digest": digest, "seconds": seconds}))
        return
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state.safetensors"

        def run(**more: Any) -> Any:
            command = [sys.executable, "-m", "benchmarks.gpu.resume", json.dumps(given | {"state": str(state)} | more)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if more.get("kill"):
                return done.returncode == -signal.SIGKILL and state.is_file()
            done.check_returncode()
            return json.loads(done.stdout.splitlines()[-1])

        whole, again = run(), run()
        if not run(kill=True):
            raise RuntimeError("the training ended before it was killed")
        resumed = run()
    same = {"repeated": whole["digest"] == again["digest"], "resumed": whole["digest"] == resumed["digest"]}
    print(json.dumps({"same bytes": same, "seconds a step": statistics.median(whole["seconds"][1:])}))


if __name__ == "__main__":
    main()
