"""Number formats of an adapter over a bfloat16 base, in PyTorch: speed, gradient, and what an update loses.

    python -m benchmarks.precision [--layers 4] [--steps 20]

  float32 compute    float32 adapter, multiplied in float32: PEFT's own way
  float32 weights    float32 adapter, multiplied in bfloat16 under autocast: what `rir_mlx` does
  bfloat16           the adapter in bfloat16 too

The gradient is compared with that of the same weights in float32 throughout. "Moved" is the share of an adapter's
numbers that a first AdamW step changes at all, at a rate of 1e-4 and at one of 1e-5, as at the end of a schedule; B was
drawn with a deviation of 0.003.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import LoraLayer

from rir_mlx.backends import open_backend
from rir_mlx.backends.torch.training import batch_loss
from rir_mlx.models.hub import resolve_model
from rir_mlx.prompting.batches import step_batches
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.examples import TrainingExamples
from rir_mlx.speed.job import OPTIMIZER, RATE, SPEC
from rir_mlx.speed.rows import make_rows
from rir_mlx.speed.shapes import make_shape

BATCH, DEVIATION = 16, 0.003
WAYS = ("float32 compute", "float32 weights", "bfloat16")


def open_model(folder: Path, way: str, dtype: Any) -> Any:
    model: Any = open_backend("torch").load(folder, dtype=dtype)
    model.add_adapter(SPEC, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.trained.items()):  # B starts at 0, and A then has no gradient
            if name.endswith("lora_b"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * DEVIATION)
    if way == "float32 compute":
        model.precision = lambda: torch.autocast("cpu", enabled=False)
        for module in model.model.modules():
            if isinstance(module, LoraLayer):
                module.cast_input_dtype_enabled = True
                vars(module).pop("forward", None)  # back to PEFT's own
    if way == "bfloat16":
        for parameter in model.trained.values():
            parameter.data = parameter.data.bfloat16()
    model.configure_optimizer(OPTIMIZER)
    return model


def gradient(model: Any, examples: TrainingExamples) -> dict[str, torch.Tensor]:
    model.model.train()
    batch_loss(model, step_batches(examples, [range(BATCH)])[0]).backward()
    model.model.eval()
    found = {name: parameter.grad.float().clone() for name, parameter in model.trained.items()}
    for parameter in model.trained.values():
        parameter.grad = None
    return found


def error(found: dict[str, torch.Tensor], true: dict[str, torch.Tensor]) -> float:
    difference = sum(float((found[name] - tensor).square().sum()) for name, tensor in true.items())
    return float(np.sqrt(difference / sum(float(tensor.square().sum()) for tensor in true.values())))


def moved(folder: Path, way: str, examples: TrainingExamples, rate: float) -> float:
    """Share of the adapter's numbers that a first step changes."""
    model = open_model(folder, way, "bfloat16")
    before = {name: parameter.detach().clone() for name, parameter in model.trained.items()}
    model.train_step(step_batches(examples, [range(BATCH)]), rate)
    changed = [(before[name] != parameter).sum() for name, parameter in model.trained.items()]
    return float(torch.stack(changed).sum()) / sum(parameter.numel() for parameter in model.trained.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_shape(folder, options.hidden, options.layers, options.vocab)
        codec = Codec(resolve_model(str(folder)).folder, "26 Jul 2024")
        examples, _ = make_rows(codec, "qa", BATCH * 4)
        true = gradient(open_model(folder, "", "float32"), examples)
        print("| adapter | rows/s | gradient error | numbers moved | loss after the steps |\n|---|---|---|---|---|")
        for way in WAYS:
            model = open_model(folder, way, "bfloat16")
            wrong = error(gradient(model, examples), true)
            seconds, losses = [], []
            for _ in range(options.steps):
                start = time.perf_counter()
                losses.append(model.train_step(step_batches(examples, [range(BATCH)]), RATE).loss)
                seconds.append(time.perf_counter() - start)
            shares = " / ".join(f"{moved(folder, way, examples, rate):.1%}" for rate in (RATE, RATE / 10))
            speed = BATCH / float(np.median(seconds[1:]))
            print(f"| {way} | {speed:.2f} | {wrong:.2%} | {shares} | {losses[0]:.4f} → {losses[-1]:.4f} |", flush=True)


if __name__ == "__main__":
    main()
