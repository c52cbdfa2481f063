"""The table of a comparison, whether the first losses agree, and on what machine it was measured."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def report_arm(arm: str, results: dict[str, list[dict[str, Any]]], peak_tflops: float | None) -> Iterator[str]:
    """Table rows of one arm. `results` holds what each trainer measured, once a round."""
    ours = [result["rows/s"] for result in results.get("ours", [])]
    for trainer, rounds in results.items():
        rates = [result["rows/s"] for result in rounds]
        rate, first = statistics.median(rates), rounds[0]
        ratios = [mine / theirs for mine, theirs in zip(ours, rates, strict=False)]
        cells = [arm, trainer, f"{rate:.3g} ({min(rates):.3g}–{max(rates):.3g})"]
        cells += [f"{statistics.median(ratios):.2f} ×" if ratios else "–", f"{first['tokens a row']:.1f}"]
        cells += [
            f"{statistics.median(result['peak GB'] for result in rounds):.2f} GB",
            f"{first['weights GB']:.2f} GB",
        ]
        cells.append(f"{first['losses'][0]:.3f} → {first['losses'][-1]:.3f}")
        cells += [f"{rate * first['FLOPs a row'] / (peak_tflops * 1e12):.1%}"] if peak_tflops else []
        yield f"| {' | '.join(cells)} |"


def report_losses(arm: str, results: dict[str, list[dict[str, Any]]], dtype: str) -> str:
    """What the rows were, and whether the trainers start from one loss. mlx-lm's is a mean over other tokens too."""
    first = {trainer: rounds[0]["losses"][0] for trainer, rounds in results.items()}
    compared = [loss for trainer, loss in first.items() if trainer != "mlx-lm"] or list(first.values())
    spread = max(compared) / min(compared) - 1
    allowed = 1e-4 if dtype == "float32" and "trl" not in results else 5e-3  # bfloat16 rounds by up to 0.4 %
    verdict = "agree" if spread <= allowed else "DISAGREE"
    shown = ", ".join(f"{trainer} {loss:.4f}" for trainer, loss in first.items())
    lengths = next(iter(results.values()))[0]["lengths"]
    return f"{arm}: {lengths} tokens. First losses {verdict} (spread {spread:.0e}, allowed {allowed:.0e}): {shown}."


def report_machine(options: argparse.Namespace, about: str) -> str:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    parts = [f"{cpu}, {os.cpu_count()} cores", *([about] if about else [])]
    for package in ["torch", "transformers", "peft", "trl"] if options.backend == "torch" else ["mlx", "mlx-lm"]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{package} {importlib.metadata.version(package)}")
    random = f"random weights {options.hidden} wide, {options.layers} layers, vocabulary {options.vocab}"
    parts += [options.dtype, options.model or random, f"batches of {options.batch}"]
    parts += [f"{options.steps} steps after {options.warmup} uncounted", f"median (range) of {options.repeats} rounds"]
    return f"Measured on: {'; '.join(parts)}."
