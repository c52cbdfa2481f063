"""Rows of random tokens, adapters that change something, and what a model's logits say the slow way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rir_mlx.backends.base import (
    PLAIN,
    Backend,
    Batch,
    Execution,
    Model,
    OptimizerSpec,
    Tokens,
)
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples

VOCABULARY = 300
"""Fewer than the tiny model's, so that every id below is one of its tokens."""

HEAD = 19


def draw(rng: np.random.Generator, count: int) -> Tokens:
    return tuple(rng.integers(8, VOCABULARY, count).tolist())


def some_examples(rows: int = 6, *, reasoning: bool = True, seed: int = 0) -> TrainingExamples:
    """Rows of clearly different lengths behind one head, long enough to be shared."""
    rng = np.random.default_rng(seed)
    made = tuple(
        TrainingExample(
            prompt=draw(rng, 1 + 3 * index),
            reasoning=draw(rng, 1 + (5 * index) % 7) if reasoning else (),
            answer=draw(rng, 1 + index % 3),
        )
        for index in range(rows)
    )
    return TrainingExamples(draw(rng, HEAD), made)


def spec_of(fine_tune_type: str, **changes: object) -> AdapterSpec:
    return AdapterSpec(fine_tune_type=fine_tune_type, rank=4, **changes)  # type: ignore[arg-type]


_ADAPTERS: dict[tuple[str, Path, AdapterSpec, int], dict[str, np.ndarray]] = {}
"""Those that were made: the folder of a tiny model holds the same weights for all tests."""


def random_adapter(backend: Backend, folder: Path, spec: AdapterSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors of the adapter's names and shapes, each changed by enough to move the logits."""
    made = (backend.name, folder, spec, seed)
    if made not in _ADAPTERS:
        model = backend.load(folder, dtype="float32")
        model.add_adapter(spec, seed=seed)
        rng = np.random.default_rng(seed)
        _ADAPTERS[made] = {
            name: (tensor + rng.normal(0, 0.1, tensor.shape)).astype(np.float32)
            for name, tensor in sorted(model.trained_tensors().items())
        }
    return {name: tensor.copy() for name, tensor in _ADAPTERS[made].items()}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def naive_loss(model: Model, batch: Batch) -> float:
    """The batch's loss by its definition: each row alone, unpadded, its prefix in front."""
    total = 0.0
    for row, length, weights in zip(batch.tokens, batch.lengths, batch.weights, strict=True):
        sequence = (*batch.prefix, *row[:length].tolist())
        log_probabilities = log_softmax(model.logits(sequence))
        for column in range(length):
            place = len(batch.prefix) + column
            if weights[column]:
                total -= float(weights[column]) * log_probabilities[place - 1, sequence[place]]
    return total


def naive_score(model: Model, prompt: Tokens, option: Tokens) -> float:
    """Σ log p(option tokens | prompt), from one pass over the whole sequence."""
    log_probabilities = log_softmax(model.logits((*prompt, *option)))
    return float(sum(log_probabilities[len(prompt) + i - 1, token] for i, token in enumerate(option)))


_GREEDY: dict[tuple[Tokens, bytes], list[int]] = {}


def naive_greedy(model: Model, prompt: Tokens, count: int) -> Tokens:
    """The likeliest next token, `count` times, without a cache or a batch. What a model with the same logits wrote
    after the same prompt is remembered."""
    first = model.logits(prompt)[-1]
    written = _GREEDY.setdefault((prompt, first.tobytes()), [int(first.argmax())])
    while len(written) < count:
        written.append(int(model.logits((*prompt, *written))[-1].argmax()))
    return tuple(written[:count])


def until_stop(written: Sequence[int], stops: Sequence[Tokens]) -> tuple[Tokens, str]:
    """What is left of an endless text when the first stop sequence to be complete ends it."""
    for end in range(1, len(written) + 1):
        for stop in stops:
            if end >= len(stop) and tuple(written[end - len(stop) : end]) == stop:
                return tuple(written[: end - len(stop)]), "stop"
    return tuple(written), "length"


TYPES = ["lora", "dora", "full"]


SMOOTH = OptimizerSpec(epsilon=1e-2)


def fresh(backend: Backend, folder: Path, fine_tune_type: str = "lora", optimizer: OptimizerSpec = SMOOTH) -> Model:
    """A model with an adapter whose every tensor has a gradient (a new one has B = 0, and so none for A)."""
    spec = spec_of(fine_tune_type)
    if backend.name == "fake":
        model = backend.load(folder)
        model.add_adapter(spec, seed=0)
    else:
        model = backend.load(folder, dtype="float32", adapter=(spec, random_adapter(backend, folder, spec)))
    model.configure_optimizer(optimizer)
    return model


def snapshot(model: Model) -> dict[str, np.ndarray]:
    return {name: tensor.copy() for name, tensor in model.trained_tensors().items()}


def assert_same_tensors(model: Model, other: Model, tolerance: float = 2e-6) -> None:
    """float32 holds some 1e-7 of a weight near 1, and an update sums a few hundred rounded products."""
    ours, theirs = model.trained_tensors(), other.trained_tensors()
    assert ours.keys() == theirs.keys()
    assert ours
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=0, atol=tolerance, err_msg=name)


def prepared(
    backend: Backend, folder: Path, fine_tune_type: str = "lora", execution: Execution = PLAIN, dropout: float = 0.0
) -> Model:
    """A model whose every trained tensor has a gradient."""
    spec = spec_of(fine_tune_type, dropout=dropout)
    model = backend.load(folder, dtype="float32", adapter=(spec, random_adapter(backend, folder, spec)))
    model.configure_optimizer(SMOOTH, execution)
    return model


def assert_same_step(model: Model, other: Model, batches: list[Batch], steps: int = 2) -> None:
    for step in range(steps):
        first, second = (trained.train_step(batches, 1e-2, seed=step) for trained in (model, other))
        assert first.loss == pytest.approx(second.loss, rel=1e-6)
        assert first.grad_norm == pytest.approx(second.grad_norm, rel=1e-5)
    assert_same_tensors(model, other)
