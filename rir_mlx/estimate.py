"""What a stage will cost, said before it starts: rows, tokens, time and memory on this machine.

The time is measured, not looked up: one batch runs through the loaded model without an update, and its time is
scaled up. It is a first estimate; the progress line corrects it as the work goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rir_mlx.backends.base import AdapterSpec, Batch, Device, Model, Request, Sampling, Tokens
from rir_mlx.training import Job

_BACKWARD = {"lora": 1.3, "dora": 2.0, "full": 2.0}
"""Time of a backward pass in forward passes: without weight gradients a little more than one."""


@dataclass(frozen=True)
class Cost:
    """`seconds` and `memory` (bytes) are estimates; `smaller` names the keys that lower them."""

    rows: int
    tokens: int
    seconds: float
    memory: int
    smaller: str

    def text(self, what: str, device: Device) -> str:
        return (
            f"{what}: {self.rows:,} rows, {self.tokens:,} tokens; about {duration(self.seconds)} and "
            f"{memory_size(self.memory)} on {device.name}. Smaller with {self.smaller}."
        )

    def warning(self, device: Device) -> str | None:
        if self.memory <= 0.9 * device.memory:
            return None
        return (
            f"This may need {self.memory / 2**30:.1f} GB, and the machine has {device.memory / 2**30:.1f} GB. "
            f"Make it smaller with {self.smaller}."
        )


def memory_size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def training_cost(model: Model, job: Job, spec: AdapterSpec, config: dict[str, Any], smaller: str) -> Cost:
    """The cost of a training job, from one forward pass over rows of middling length."""
    order = sorted(range(len(job.train.rows)), key=lambda index: len(job.train.rows[index]))
    half = max(0, len(order) // 2 - job.options.batch_size // 2)
    group = order[half : half + job.options.batch_size]
    batch = job.batches(job.train, [group])[0]
    model.loss(batch)
    forward = _timed(lambda: model.loss(batch))
    rows = job.steps * job.options.batch_size * job.options.grad_accumulation_steps
    batches = job.steps * job.options.grad_accumulation_steps
    longest = job.batches(job.train, [order[-job.options.batch_size :]])[0]
    return Cost(
        rows=rows,
        tokens=batches * batch.processed,
        seconds=batches * forward * (1 + _BACKWARD[spec.fine_tune_type]),
        memory=_training_memory(model, longest, spec, config),
        smaller=smaller,
    )


def generation_cost(
    model: Model, requests: Sequence[Request], prefix: Tokens, sampling: Sampling, config: dict[str, Any]
) -> Cost:
    """The cost of generating to the limit for every request: an upper bound, from a few tokens of one batch."""
    few, more = 2, 8
    batch = requests[: sampling.batch_size]

    def run(tokens: int) -> float:
        short = Sampling(max_tokens=tokens, batch_size=sampling.batch_size)
        return _timed(lambda: list(model.generate(batch, short, prefix=prefix)))

    run(1)
    start = run(few)
    each = max(0.0, (run(more) - start) / (more - few))
    batches = len(requests) / max(1, len(batch))
    prompt = sum(len(request.tokens) for request in requests) + len(prefix)
    return Cost(
        rows=len(requests),
        tokens=prompt + len(requests) * sampling.max_tokens,
        seconds=batches * (start + each * sampling.max_tokens),
        memory=_generation_memory(model, batch, len(prefix) + sampling.max_tokens, config),
        smaller="data.max_samples, augment.max_tokens",
    )


def _training_memory(model: Model, batch: Batch, spec: AdapterSpec, config: dict[str, Any]) -> int:
    """Bytes: weights; gradients and AdamW's two moments of what is trained; activations kept for the backward pass
    (some 34 values of the hidden width a token and layer); and the logits of the learned tokens, three times."""
    hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    width = 4 if spec.fine_tune_type == "full" else 2
    trained = model.parameters if spec.fine_tune_type == "full" else layers * 7 * 3 * hidden * spec.rank
    learned = int((batch.weights > 0).sum())
    activations = batch.processed * layers * hidden * 34 * width
    return model.parameters * width + trained * 16 + activations + 3 * 4 * learned * int(config["vocab_size"])


def _generation_memory(model: Model, batch: Sequence[Request], more: int, config: dict[str, Any]) -> int:
    """Bytes: weights; keys and values of every token of the longest row, for each row; and a row of logits each."""
    heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
    width = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    longest = max(len(request.tokens) for request in batch) + more
    cache = len(batch) * longest * int(config["num_hidden_layers"]) * heads * width * 2 * 2
    return model.parameters * 2 + cache + len(batch) * int(config["vocab_size"]) * 4


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
