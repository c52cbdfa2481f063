"""Every stage's work on a folder of Llama-3.2-1B's exact shape with random weights: times and peak memory.

    python -m benchmarks.llama_shape [--layers 16] [--backend torch] [--folder FOLDER]

Ten training steps, 32 rows generated, 32 rows scored; `benchmarks.export` exports. Each phase runs in a process of its
own, so that its peak is its own. The tokenizer is the embedded model's; the weights are noise, so the text is too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shapes import make_shape, peak_gb
from rir_mlx.backends import open_backend
from rir_mlx.backends.base import OptimizerSpec, Request, Sampling
from rir_mlx.data.loading import load_labelled
from rir_mlx.data.rows import Row
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.adapters import Adapter, read_adapter, write_adapter
from rir_mlx.models.hub import resolve_model
from rir_mlx.prompting.arms import ClassificationTask, label_tokens, training_examples
from rir_mlx.prompting.batches import LossWeights, step_batches
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.types import Arm

STEPS, BATCH, ROWS, NEW_TOKENS = 10, 16, 32, 32
REASONING = "The words tell of something that happened to the writer, and of how it left them. What counts is how they "
REASONING += "feel at the end, after the turn of the sentence, and that is the feeling that the label names."
SPEC = AdapterSpec(rank=16)


class Setting:
    """The model, the task and rows of the embedded data."""

    def __init__(self, folder: Path, backend: str) -> None:
        data = load_labelled(load_recipe("demo").data, seed=0)
        self.rows: tuple[Row, ...] = data.train
        self.base = resolve_model(str(folder))
        self.codec = Codec(self.base.folder, "26 Jul 2024")
        self.task = ClassificationTask(data.labels, "Which feeling does the writer have now?", 512, NEW_TOKENS)
        self.backend = open_backend("mlx" if backend == "mlx" else "torch")
        self.adapter_folder = folder.parent / "adapter"
        self.dtype: Any = "float32" if backend == "mlx" else "bfloat16"

    def examples(self, arm: Arm, count: int) -> Any:
        return training_examples(
            self.codec, self.task, (replace(row, reasoning=REASONING) for row in self.rows[:count]), arm
        )

    def load(self, *, adapted: bool) -> Any:
        adapter = read_adapter(self.adapter_folder, self.base) if adapted else None
        given = (adapter.spec, adapter.tensors) if adapter else None
        return self.backend.load(self.base.folder, dtype=self.dtype, adapter=given)


def train(setting: Setting) -> dict[str, Any]:
    model = setting.load(adapted=False)
    loaded = peak_gb()
    model.add_adapter(SPEC, seed=0)
    model.configure_optimizer(OptimizerSpec())
    measured: dict[str, Any] = {"peak after loading GB": loaded}
    for arm in ("qa", "qra"):
        examples = setting.examples("qa" if arm == "qa" else "qra", STEPS * BATCH)
        times, losses = [], []
        for step in range(STEPS):
            batches = step_batches(
                examples, [range(step * BATCH, (step + 1) * BATCH)], weights=LossWeights(reasoning=0.5)
            )
            start = time.perf_counter()
            losses.append(model.train_step(batches, 1e-4).loss)
            times.append(time.perf_counter() - start)
        measured |= {
            f"{arm} s a step (median)": float(np.median(times)),
            f"{arm} rows/s": BATCH / float(np.median(times)),
            f"{arm} loss, first and last": [round(losses[0], 3), round(losses[-1], 3)],
            f"{arm} tokens a row, of them shared": [len(examples.prefix) + len(examples.rows[0]), len(examples.prefix)],
        }
    write_adapter(setting.adapter_folder, Adapter(SPEC, model.trained_tensors(), {}), setting.base)
    return measured


def generate(setting: Setting) -> dict[str, Any]:
    model = setting.load(adapted=True)
    examples = setting.examples("qra", ROWS)
    requests = [Request(index, row.prompt) for index, row in enumerate(examples.rows)]
    sampling = Sampling(max_tokens=NEW_TOKENS)  # no stop: every row writes them all
    start = time.perf_counter()
    tokens = sum(len(generated.tokens) for generated in model.generate(requests, sampling, prefix=examples.prefix))
    seconds = time.perf_counter() - start
    return {"rows": ROWS, "tokens": tokens, "seconds": seconds, "tokens/s": tokens / seconds}


def score(setting: Setting) -> dict[str, Any]:
    model = setting.load(adapted=True)
    examples = setting.examples("qa", ROWS)
    options = [label_tokens(setting.codec, label) for label in setting.task.labels]
    start = time.perf_counter()
    scores = model.score([row.prompt for row in examples.rows], options, prefix=examples.prefix)
    seconds = time.perf_counter() - start
    return {"rows": ROWS, "labels": scores.shape[1], "seconds": seconds, "rows/s": ROWS / seconds}


PHASES: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "train": train,
    "generate": generate,
    "score": score,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--backend", choices=["torch", "mlx"], default="torch")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--phase", choices=sorted(PHASES))
    options = parser.parse_args()
    if options.phase:
        start = time.perf_counter()
        measured = PHASES[options.phase](Setting(options.folder, options.backend))
        print(json.dumps(measured | {"phase s": time.perf_counter() - start, "peak GB": peak_gb()}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "model"
        if not (folder / "model.safetensors").is_file():
            make_shape(folder, 2048, options.layers, 128256)
        for phase in PHASES:
            command = [sys.executable, "-m", "benchmarks.llama_shape", "--phase", phase, "--folder", str(folder)]
            done = subprocess.run(
                [*command, "--backend", options.backend], stdout=subprocess.PIPE, text=True, check=True
            )
            print(phase)
            for name, value in json.loads(done.stdout.splitlines()[-1]).items():
                print(f"  {name:40} {value if not isinstance(value, float) else round(value, 4)}")


if __name__ == "__main__":
    main()
