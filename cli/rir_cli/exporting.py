"""What `rir-mlx export` does: fuse, write, load back, compare."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rir_convert.hf import verify, write_hf_folder
from rir_convert.weights import Weights

from rir_mlx import __version__
from rir_mlx.adapters import read_adapter
from rir_mlx.arms import Task, training_examples
from rir_mlx.backends import open_backend
from rir_mlx.errors import Failure, UserError
from rir_mlx.prompts import DELIMITER, Arm

if TYPE_CHECKING:
    from rir_mlx.stages import Context

_ROWS = 16
_LONG = 1024


def export_classifier(context: Context, arm: Arm, output: Path | None) -> tuple[Path, dict[str, Any]]:
    """Export one arm in Hugging Face format and verify it. Returns the folder and the verification's figures.

    Raises Failure where the written folder is not the model that was trained; it is kept aside as `.rejected`."""
    stage = context.run.classifier(arm)
    if stage.done() is None:
        arms = ", ".join(context.run.trained_arms())
        raise UserError(f"{context.run.folder} has no {arm} classifier.", mend=f"Trained arms: {arms}.")
    folder = (output or context.run.export("hf", arm)).absolute()
    if folder.exists() and any(folder.iterdir()) and not _ours(folder):
        raise UserError(f"{folder} holds something that this command did not write.", mend="Choose another --output.")
    # transformers is the format's own reader, so it judges wherever PyTorch is installed.
    transformers_runs = all(importlib.util.find_spec(module) for module in ("torch", "peft"))
    judge = open_backend("torch") if transformers_runs else context.backend
    written = folder.with_name(folder.name + ".unverified")
    trained = read_adapter(stage.adapter, context.base)
    task = Task(**trained.about["task"])
    adapter = (trained.spec, trained.tensors)
    about = {
        "labels": task.names,
        "eos_token_id": list(context.codec.stops),
        "rir_mlx": {
            "version": __version__,
            "arm": arm,
            "labels": task.labels,
            "instruction": task.instruction,
            "date": context.recipe.date,
            "delimiter": DELIMITER,
            "terminator": context.codec.terminator,
        },
    }
    context.progress.say(f"Fusing {stage.adapter} into {context.base.name} …")
    write_hf_folder(written, context.base, adapter, about)
    weights = Weights(written)
    dtype = str(weights[next(iter(weights))].dtype)
    trained_model = context.backend.load(context.base.folder, dtype="float32", adapter=adapter)
    rows = [(row.text, row.label, "") for row in context.data.test[:_ROWS] or context.data.train[:_ROWS]]
    examples = training_examples(context.codec, task, rows, arm)
    sequences = [examples.head + row.prompt + row.learned for row in examples.rows]
    # Rotary scaling shows over long distances only.
    sequences.append(tuple(token for sequence in sequences for token in sequence)[:_LONG])
    try:
        result = verify(written, trained_model, judge, sequences, dtype=dtype)
    except Failure:
        _move(written, folder.with_name(folder.name + ".rejected"))
        raise
    _move(written, folder)
    context.progress.say(
        f"Loaded back with {result.engine}: log-probabilities differ by {result.mean_difference:.2g} on average "
        f"(bound {result.bound:g}), the likeliest token is the same at {result.same_choice:.1%} of "
        f"{result.tokens:,} positions."
    )
    return folder, asdict(result)


def _ours(folder: Path) -> bool:
    try:
        return "rir_mlx" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _move(folder: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    os.replace(folder, place)
