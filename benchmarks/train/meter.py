"""What one trainer's run is measured by: time and tokens of each step, peak memory, losses, FLOPs."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

from benchmarks.shapes import watch_memory
from benchmarks.train.job import SPEC, Job
from rir_mlx.prompting.examples import TrainingExample


class Meter:
    """What a trainer reports while it runs: weights loaded, then the end of each step. It fills in the losses."""

    def __init__(self, backend: str) -> None:
        self.losses: list[float] = []
        self.tokens, self.place, self.about = 0, "mlx", ""
        if backend == "torch":
            import torch

            self.place = "cuda" if torch.cuda.is_available() else "cpu"
            self.about = torch.cuda.get_device_name() if self.place == "cuda" else f"{torch.get_num_threads()} threads"
            # Whatever the trainer, its tokens enter the model through this function.
            embedding = torch.nn.functional.embedding

            def counted(ids: Any, *given: Any, **named: Any) -> Any:
                self.tokens += ids.numel()
                return embedding(ids, *given, **named)

            torch.nn.functional.embedding = counted

    def loaded(self, weights: int) -> None:
        """`weights` in bytes. The model has run once before, so that all of them are resident."""
        self.weights, self.tokens = weights / 2**30, 0
        self.peak = watch_memory(self.place)
        self.ends = [time.perf_counter()]

    def step(self) -> None:
        if self.place == "cuda":
            import torch

            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def measured(self, job: Job) -> dict[str, Any]:
        seconds = [after - before for before, after in pairwise(self.ends)][job.warmup :]
        tokens = self.tokens / (job.batch * job.steps)
        measured: dict[str, Any] = {"rows/s": job.batch * len(seconds) / sum(seconds), "seconds": seconds}
        measured |= {"tokens a row": tokens, "peak GB": self.peak(), "weights GB": self.weights}
        return measured | {"losses": self.losses, "about": self.about}


def flops(config: dict[str, Any], prefix: int, row: TrainingExample) -> float:
    """Of one row's training, by the formula in this module's docstring."""
    hidden, middle, heads = (config[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads"))
    head = config.get("head_dim") or hidden // heads
    width, keys = head * heads, head * config["num_key_value_heads"]
    shapes = [(hidden, width), (hidden, keys), (hidden, keys), (width, hidden), *[(hidden, middle)] * 3]
    frozen, factors = sum(a * b for a, b in shapes), SPEC.rank * sum(a + b for a, b in shapes)
    tokens, completion = prefix + len(row), len(row.reasoning) + len(row.answer)
    layer = (4 * frozen + 6 * factors) * tokens + 6 * width * tokens**2
    return float(config["num_hidden_layers"] * layer + 4 * hidden * config["vocab_size"] * completion)
