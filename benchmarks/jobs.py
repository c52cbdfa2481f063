"""One measurement in a process of its own, so that its memory and its threads are its own too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

SHAPES = {"torch": (2048, 4, 128256), "mlx": (256, 4, 32768)}
"""Width, layers and vocabulary of the shapes that are measured by default."""

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def measured_apart(benchmark: str, job: DataclassInstance, device: str) -> dict[str, Any]:
    """What `python -m benchmarks.BENCHMARK --job JOB` prints last, as JSON. The device `cpu` hides a CUDA device."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--job", json.dumps(asdict(job))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured
