"""Every stage's work on a folder of Llama-3.2-1B's exact shape with random weights: times and peak memory.

    python -m benchmarks.llama_shape [--layers 16] [--backend torch] [--dtype bfloat16] [--folder FOLDER] [--phase NAME]

The check at load, ten training steps, 32 rows generated, 32 rows scored, and in MLX a drawn token; `benchmarks.export`
exports. Each phase runs in a process of its own, so that its peak is its own. The tokenizer is the embedded model's;
the weights are noise, so the text is too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import OptimizerSpec, Request, Sampling
from rir_mlx.backends.limits.memory import peak_gb
from rir_mlx.backends.load_check import Checked, check_forward
from rir_mlx.data.loading import load_labelled
from rir_mlx.data.rows import Row
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.adapters import Adapter, read_adapter, write_adapter
from rir_mlx.models.hub import resolve_model
from rir_mlx.prompting.arms import ClassificationTask, label_tokens, training_examples
from rir_mlx.prompting.batches import LossWeights, step_batches
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.speed.shapes import make_shape
from rir_mlx.types import Arm, Dtype

STEPS, BATCH, ROWS, NEW_TOKENS, DRAWS = 10, 16, 32, 32, 200
VOCABULARY = 128_256
REASONING = "The words tell of something that happened to the writer, and of how it left them. What counts is how they "
REASONING += "feel at the end, after the turn of the sentence, and that is the feeling that the label names."
SPEC = AdapterSpec(rank=16)


class Setting:
    """The model, the task and rows of the embedded data."""

    def __init__(self, folder: Path, backend: str, dtype: Dtype | None = None) -> None:
        data = load_labelled(load_recipe("demo", ["data.max_samples=100"]).data, seed=0)
        self.rows: tuple[Row, ...] = data.train
        self.base = resolve_model(str(folder))
        self.codec = Codec(self.base.folder, "26 Jul 2024")
        self.task = ClassificationTask(data.labels, "Which feeling does the writer have now?", 512, NEW_TOKENS)
        self.backend = open_backend("mlx" if backend == "mlx" else "torch")
        self.adapter_folder = folder.parent / "adapter"
        self.dtype: Dtype = dtype or ("float32" if backend == "mlx" else "bfloat16")

    def examples(self, arm: Arm, count: int) -> Any:
        return training_examples(
            self.codec, self.task, (replace(row, reasoning=REASONING) for row in self.rows[:count]), arm
        )

    def load(self, *, adapted: bool) -> Any:
        adapter = read_adapter(self.adapter_folder, self.base) if adapted else None
        given = (adapter.spec, adapter.tensors) if adapter else None
        return self.backend.load(self.base.folder, dtype=self.dtype, adapter=given)


def check(setting: Setting) -> dict[str, Any]:
    """The check at load once more on a loaded model: cold, it also waits for the weights to be read."""
    start = time.perf_counter()
    model = setting.load(adapted=False)
    loaded = time.perf_counter() - start
    what = Checked("llama", VOCABULARY, setting.dtype)
    start, used = time.perf_counter(), time.process_time()
    check_forward(model, what)
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    return {"load and check s": loaded, "check s": seconds, "check s of processor time": processor}


def draw(setting: Setting) -> dict[str, Any]:
    """One row's token from log-probabilities of the whole vocabulary: ours, and MLX's own categorical draw."""
    if setting.backend.name != "mlx":
        return {}
    import mlx.core as mx

    from rir_mlx.backends.mlx.generation import sampler

    rng = np.random.default_rng(0)
    logits = mx.array(rng.normal(0, 3, (1, VOCABULARY)).astype(np.float32))
    logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    ours = sampler(Sampling(temperature=0.8), 1, VOCABULARY)
    assert ours is not None
    draws = {"ours": ours, "mx.random.categorical": lambda given: mx.random.categorical(given / 0.8)}
    measured: dict[str, list[float]] = {name: [] for name in draws}
    for _ in range(DRAWS):
        for name, taken in draws.items():
            start = time.process_time()
            mx.eval(taken(logits))
            measured[name].append(1e3 * (time.process_time() - start))
    return {f"{name}: ms of processor time a token (median)": float(np.median(each)) for name, each in measured.items()}


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
    "check": check,
    "train": train,
    "generate": generate,
    "score": score,
    "draw": draw,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--backend", choices=["torch", "mlx"], default="torch")
    parser.add_argument("--dtype", choices=[name for name in typing.get_args(Dtype) if name != "auto"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--phase", choices=sorted(PHASES), help="run it here, on the folder of an earlier call")
    options = parser.parse_args()
    if options.phase:
        start = time.perf_counter()
        measured = PHASES[options.phase](Setting(options.folder, options.backend, options.dtype))
        print(json.dumps(measured | {"phase s": time.perf_counter() - start, "peak GB": peak_gb()}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "model"
        if not (folder / "model.safetensors").is_file():
            make_shape(folder, 2048, options.layers, VOCABULARY)
        for phase in PHASES:
            command = [sys.executable, "-m", "benchmarks.llama_shape", "--phase", phase, "--folder", str(folder)]
            command += ["--backend", options.backend, *(["--dtype", options.dtype] if options.dtype else [])]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(phase)
            for name, value in json.loads(done.stdout.splitlines()[-1]).items():
                print(f"  {name:40} {value if not isinstance(value, float) else round(value, 4)}")


if __name__ == "__main__":
    main()
