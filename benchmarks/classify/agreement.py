"""Whether the peers give the same answers in float32, on the embedded model after a short training."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.classify.measuring import run_job
from benchmarks.classify.rows import TASKS, Job, read_rows
from rir_mlx.backends import open_backend
from rir_mlx.backends.base import OptimizerSpec
from rir_mlx.data.rows import Row
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.prompting.arms import ClassificationTask, training_examples
from rir_mlx.prompting.batches import step_batches
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.builtin import EMBEDDED
from rir_mlx.speed.job import LENGTHS
from rir_mlx.speed.rows import DATE, INSTRUCTION, LABELS

CHECKED = 96
"""Rows that are compared in float32."""


def train_briefly(backend: str, folder: Path, data: str | None, steps: int) -> None:
    """The embedded model after some steps on rows that are not compared: 150 make it write a label and end, more make
    it tell labels apart."""
    shutil.copytree(EMBEDDED / "tiny-llama", folder)
    codec, task = Codec(folder, DATE), ClassificationTask(LABELS, INSTRUCTION, 512, LENGTHS[-1])
    rows = [Row(text, label) for text, label in read_rows(data)[CHECKED:]]
    examples = training_examples(codec, task, rows, "qa")
    model: Any = open_backend(backend).load(folder, dtype="float32")  # type: ignore[arg-type]
    model.add_adapter(AdapterSpec("full"), seed=0)
    model.configure_optimizer(OptimizerSpec())
    rng = np.random.default_rng(0)
    for _ in range(steps):
        group = rng.choice(len(examples.rows), 16, replace=False).tolist()
        model.train_step(step_batches(examples, [group]), 1e-3)
    from safetensors.numpy import save_file

    save_file(model.trained_tensors(), folder / "model.safetensors", {"format": "pt"})


def check(options: argparse.Namespace, folder: Path, data: str | None) -> Iterator[str]:
    """What the peers answer in float32, beside ours. Raises AssertionError where probabilities differ."""
    train_briefly(options.backend, folder, data, options.check_steps)
    for task in TASKS:
        job = Job("ours", task, options.backend, str(folder), "float32", options.batch, CHECKED, CHECKED, data)
        mine, passes = (run_job(replace(job, peer=peer), options.device) for peer in ("ours", "label-passes"))
        same = [a == b for a, b in zip(mine["prompts"], passes["prompts"], strict=True)]
        probabilities = (np.array(answers["probabilities"])[same] for answers in (mine, passes))
        difference = float(np.abs(np.subtract(*probabilities)).max())
        assert difference < 1e-4, f"{task}: the probabilities of ours and label-passes differ by {difference:.2g}"
        yield f"Embedded model, float32, {task}: ours and label-passes saw the same prompt in {sum(same)} of {CHECKED}"
        yield f"rows, and their probabilities differ by {difference:.1g} there at most."
        if task == "label":
            written = run_job(replace(job, peer="generate-batch"), options.device)["labels"]
            likeliest = np.argmax(mine["probabilities"], axis=1).tolist()
            agree = sum(label == other for label, other in zip(written, likeliest, strict=True))
            yield f"generate-batch wrote ours's likeliest label in {agree} rows, another in"
            yield f"{CHECKED - agree - written.count(None)}, and none in {written.count(None)};"
            yield f"ours has {len(set(likeliest))} different labels."
