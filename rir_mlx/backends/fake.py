"""A deterministic backend without a framework, for tests and dry runs.

It really learns, though little: the next-token logits are a row of a table, selected by the sum of the tokens so far.
It generates the start of the prompt backwards, with a length that depends on the prompt, and a stop sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.base import (
    PLAIN,
    Batch,
    Completion,
    Device,
    Execution,
    Float32Array,
    OnToken,
    OptimizerSpec,
    Request,
    Sampling,
    SingleProcess,
    StepResult,
    Tokens,
    TrainingState,
)
from rir_mlx.backends.facts import Facts
from rir_mlx.errors import ModelError
from rir_mlx.json_text import parse_json
from rir_mlx.models.adapter_spec import AdapterSpec, Tensors
from rir_mlx.types import Dtype

_BUCKETS = 97
_TENSOR = "fake.m"  # a name that adapter folders know how to write in both formats


class FakeBackend:
    name = "fake"
    processes = SingleProcess()

    def device(self) -> Device:
        return Device("no framework", 1 << 40)

    def facts(self) -> Facts:
        return Facts(None, 1, "NumPy")

    def load(
        self, folder: Path, *, dtype: Dtype = "auto", adapter: tuple[AdapterSpec, Tensors] | None = None
    ) -> FakeModel:
        try:
            size = int(parse_json((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])
        except (OSError, KeyError, ValueError) as error:
            raise ModelError(f"{folder} is not a model folder: {error}") from error
        model = FakeModel(size)
        if adapter is not None:
            if set(adapter[1]) != {_TENSOR} or adapter[1][_TENSOR].shape != model.table.shape:
                raise ModelError("The adapter does not fit this model: it was made by another backend or base.")
            model.table = np.array(adapter[1][_TENSOR], dtype=np.float64)
        return model


class FakeModel:
    """A table [buckets, vocabulary] of logits."""

    def __init__(self, vocabulary: int) -> None:
        self.table = np.random.default_rng(0).normal(0, 0.1, (_BUCKETS, vocabulary))
        self.parameters = self.table.size
        self.weight_bytes = self.table.nbytes
        self.head_rows = 256
        self.max_grad_norm = 1.0
        self.longest: int | None = None

    def add_adapter(self, spec: AdapterSpec, seed: int) -> None:
        self.table = self.table + np.random.default_rng(seed).normal(0, 1e-3, self.table.shape)

    def configure_optimizer(self, spec: OptimizerSpec, execution: Execution = PLAIN) -> None:
        self.max_grad_norm = spec.max_grad_norm

    def training_state(self) -> TrainingState:
        return TrainingState({"table": self.table})

    def load_training_state(self, state: TrainingState) -> None:
        if state.tensors.keys() != {"table"} or state.tensors["table"].shape != self.table.shape:
            raise ModelError("The checkpoint does not fit this model.")
        self.table = np.array(state.tensors["table"], dtype=np.float64)

    def train_step(self, batches: Sequence[Batch], learning_rate: float, *, seed: int = 0) -> StepResult:
        gradient = np.zeros_like(self.table)
        total = sum(self._loss(batch, gradient) for batch in batches)
        norm = float(np.linalg.norm(gradient))
        self.table -= 100 * learning_rate * gradient * min(1.0, self.max_grad_norm / (norm + 1e-6))
        return StepResult(loss=total, grad_norm=norm)

    def loss(self, batch: Batch) -> float:
        return self._loss(batch, np.zeros_like(self.table))

    def _loss(self, batch: Batch, gradient: NDArray[np.float64]) -> float:
        total = 0.0
        for row, length, weights in zip(batch.tokens, batch.lengths, batch.weights, strict=True):
            columns = np.nonzero(weights)[0]
            buckets = self._buckets((*batch.prefix, *row[:length].tolist()))[len(batch.prefix) + columns - 1]
            predicted = self._log_probabilities(buckets)
            for column, bucket, log_probabilities in zip(columns.tolist(), buckets, predicted, strict=True):
                weight = float(weights[column])
                total -= weight * float(log_probabilities[row[column]])
                gradient[bucket] += weight * np.exp(log_probabilities)
                gradient[bucket, row[column]] -= weight
        return total

    def _buckets(self, tokens: Tokens) -> NDArray[np.int64]:
        return np.cumsum(np.array(tokens, dtype=np.int64)) % _BUCKETS

    def _log_probabilities(self, buckets: NDArray[np.int64]) -> NDArray[np.float64]:
        """[places, vocabulary]: of the token after each place, whose bucket is given."""
        logits = self.table[buckets]
        shifted = logits - logits.max(axis=-1, keepdims=True)
        result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return result

    def logits(self, tokens: Tokens) -> Float32Array:
        return self.table[self._buckets(tokens)].astype(np.float32)

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]:
        return (self.logits(prefix + row)[-min(last, len(row)) :] for row in rows)

    def layer_outputs(self, tokens: Tokens) -> list[Float32Array]:
        return [self.logits(tokens)]

    def generate(
        self,
        requests: Iterable[Request | None],
        sampling: Sampling,
        *,
        prefix: Tokens = (),
        on_token: OnToken | None = None,
    ) -> Iterator[Completion]:
        for request in (request for request in requests if request is not None):
            wanted, limit = 4 + (sum(request.tokens) + request.seed) % 8, request.limit(sampling)
            words = request.tokens[: min(wanted, limit)][::-1]
            if on_token is not None:
                for token in words:
                    on_token(request.key, token)
            yield Completion(request.key, words, "stop" if wanted < limit else "length")

    def score(
        self,
        prompts: Sequence[Tokens],
        options: Sequence[Tokens],
        *,
        prefix: Tokens = (),
        batch_size: int = 32,
        mass: bool = True,
    ) -> NDArray[np.float64]:
        scores = np.zeros((len(prompts), len(options)))
        for row, prompt in enumerate(prompts):
            for column, option in enumerate(options):
                start = len(prefix) + len(prompt) - 1
                buckets = self._buckets((*prefix, *prompt, *option))[start : start + len(option)]
                predicted = self._log_probabilities(buckets)
                scores[row, column] = sum(predicted[place, token] for place, token in enumerate(option))
        return scores

    def keep_prefixes(self, count: int) -> None:
        return

    def fuse(self) -> None:
        return

    def trained_tensors(self) -> dict[str, np.ndarray]:
        return {_TENSOR: self.table.astype(np.float32)}
