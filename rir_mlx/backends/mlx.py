"""MLX: mlx-lm's models, caches, adapters and batch generator. The only file that imports mlx.

Rows that share a prefix run it once: its keys and values go through mlx-lm's own cache at batch 1 and are broadcast
over the rows; the gradient of the broadcast sums what the rows send back.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.base import (
    LINEAR_KEYS,
    AdapterSpec,
    Batch,
    Completion,
    Device,
    Dtype,
    Floats,
    OnToken,
    OptimizerSpec,
    Request,
    Sampling,
    StepResult,
    Tensors,
    Tokens,
    adapted_layers,
    initial_lora_a,
    learned_positions,
    pad_right,
    scoring_rows,
    unstopped,
)
from rir_mlx.errors import Failure, ModelError
from rir_mlx.models import rope_for_both


def _prefer_openblas() -> None:
    """On Linux the wheel brings a reference BLAS, some 25 times slower in float32 than OpenBLAS. An OpenBLAS that is
    loaded first and globally is the one whose symbols MLX finds: that of the `mlx-cpu` extra, or the system's."""
    if sys.platform != "linux":
        return
    found = importlib.util.find_spec("scipy_openblas32")
    folders = found.submodule_search_locations or [] if found else []
    bundled = [str(path) for folder in folders for path in Path(folder).glob("lib/libopenblas_python.so")]
    for library in (*bundled, "libopenblas.so.0"):
        try:
            openblas = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        # MLX hands it one small product after another: threads cost more than they bring.
        openblas.openblas_set_num_threads(1)
        return


_prefer_openblas()
# Importing mlx_lm lowers the process's limit of open files for good, the hard limit included.
_setrlimit, resource.setrlimit = resource.setrlimit, lambda *_: None

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
from mlx.utils import tree_flatten, tree_map  # noqa: E402
from mlx_lm.generate import BatchGenerator  # noqa: E402
from mlx_lm.models.cache import BatchKVCache, ConcatenateKVCache, KVCache  # noqa: E402
from mlx_lm.sample_utils import apply_top_p  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers  # noqa: E402
from mlx_lm.utils import load_config, load_model  # noqa: E402

resource.setrlimit = _setrlimit

_LEAVES = (".lora_a", ".lora_b", ".m")


class MlxBackend:
    """The Metal GPU on Apple silicon, else the processor."""

    name = "mlx"

    def device(self) -> Device:
        info = mx.device_info()
        name = str(info.get("device_name") or info.get("architecture") or platform.processor() or "processor")
        memory = int(info.get("memory_size") or info.get("total_memory") or _physical_memory())
        return Device(f"{name}, MLX {mx.__version__}", memory)

    def load(
        self, folder: Path, *, dtype: Dtype = "auto", adapter: tuple[AdapterSpec, Tensors] | None = None
    ) -> MlxModel:
        try:
            model, config = load_model(folder, model_config=rope_for_both(load_config(folder)))
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise ModelError(f"{folder} cannot be loaded as a language model: {error}") from error
        if (wanted := self._dtype(dtype)) is not None and "quantization" not in config:
            model.set_dtype(wanted)
        mx.eval(model.parameters())
        loaded = MlxModel(model)
        if adapter is not None:
            loaded.attach(*adapter)
        return loaded

    def _dtype(self, dtype: Dtype) -> Any:
        """None keeps the folder's own. Without Metal bfloat16 is emulated, so `auto` is float32 there."""
        if dtype == "auto":
            return None if mx.metal.is_available() else mx.float32
        return getattr(mx, dtype)


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class MlxModel:
    """An mlx-lm model, with or without an adapter inside."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.parameters = sum(int(p.size) for _, p in tree_flatten(model.parameters()))
        self.optimizer: Any = None
        self.max_grad_norm = 1.0
        model.freeze()
        model.eval()

    # adapters

    def add_adapter(self, spec: AdapterSpec, seed: int) -> None:
        mx.random.seed(seed)
        self._inject(spec)
        fresh = [
            (name, mx.array(initial_lora_a(name, tensor.shape, seed)))
            for name, tensor in tree_flatten(self.model.trainable_parameters())
            if name.endswith(".lora_a")
        ]
        self.model.load_weights(fresh, strict=False)
        mx.eval(self.model.parameters())

    def attach(self, spec: AdapterSpec, tensors: Tensors) -> None:
        """Put given tensors in place of fresh ones. Raises ModelError where names or shapes differ."""
        self._inject(spec)
        own = dict(tree_flatten(self.model.trainable_parameters()))
        if set(tensors) != set(own):
            odd = sorted(set(tensors) ^ set(own))[0]
            raise ModelError(f"The adapter does not fit this model: {odd} is in one of them only.")
        for name, tensor in tensors.items():
            if tuple(tensor.shape) != tuple(own[name].shape):
                raise ModelError(
                    f"The adapter does not fit this model: {name} is {tuple(tensor.shape)}, "
                    f"not {tuple(own[name].shape)}."
                )
        given = [(name, mx.array(np.asarray(tensor, dtype=np.float32))) for name, tensor in tensors.items()]
        self.model.load_weights(given, strict=False)
        mx.eval(self.model.parameters())

    def _inject(self, spec: AdapterSpec) -> None:
        if spec.fine_tune_type == "full":
            self.model.set_dtype(mx.float32)
            self.model.unfreeze()
            return
        layers = self.model.layers
        count = len(adapted_layers(spec, len(layers)))
        keys = set(spec.keys or LINEAR_KEYS)
        linear = {
            name for name, module in layers[-1].named_modules() if isinstance(module, (nn.Linear, nn.QuantizedLinear))
        }
        if missing := sorted(keys - linear):
            raise ModelError(f"The model has no linear layer {missing[0]}.", mend="Mend lora_parameters.keys.")
        parameters = {"rank": spec.rank, "scale": spec.scale, "dropout": spec.dropout, "keys": keys}
        linear_to_lora_layers(self.model, count, parameters, use_dora=spec.fine_tune_type == "dora")
        self.model.freeze()
        self.model.unfreeze(keys=["lora_a", "lora_b", "m"], strict=False)
        self.model.eval()

    def trained_tensors(self) -> dict[str, np.ndarray]:
        return {
            name: np.array(tensor.astype(mx.float32))
            for name, tensor in tree_flatten(self.model.trainable_parameters())
        }

    # training

    def configure_optimizer(self, spec: OptimizerSpec) -> None:
        self.max_grad_norm = spec.max_grad_norm
        self.optimizer = optim.AdamW(
            learning_rate=0.0,
            betas=[spec.beta1, spec.beta2],
            eps=spec.epsilon,
            weight_decay=spec.weight_decay,
            bias_correction=True,
        )

    def train_step(self, batches: Sequence[Batch], learning_rate: float) -> StepResult:
        if self.optimizer is None:
            raise Failure("train_step needs configure_optimizer first")
        self.model.train()
        gradient_of = nn.value_and_grad(self.model, self._loss)
        total, gradients = 0.0, None
        for batch in batches:
            loss, added = gradient_of(batch)
            gradients = added if gradients is None else tree_map(mx.add, gradients, added)
            mx.eval(loss, gradients)
            total += loss.item()
        gradients, norm = optim.clip_grad_norm(gradients, self.max_grad_norm)
        self.optimizer.learning_rate = learning_rate
        self.optimizer.update(self.model, gradients)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        self.model.eval()
        return StepResult(loss=total, grad_norm=float(norm.item()))

    def loss(self, batch: Batch) -> float:
        return float(self._loss(batch).item())

    def _loss(self, batch: Batch) -> mx.array:
        rows, width = batch.tokens.shape
        caches = self._broadcast_prefix(batch.prefix, rows)
        hidden = self.model.model(mx.array(batch.tokens), cache=caches)
        positions, targets, weights = learned_positions(batch)
        chosen = hidden.reshape(rows * width, -1)[mx.array(positions)]
        losses = nn.losses.cross_entropy(self._head(chosen).astype(mx.float32), mx.array(targets))
        return (losses * mx.array(weights)).sum()

    def _broadcast_prefix(self, prefix: Tokens, rows: int) -> list[ConcatenateKVCache] | None:
        """The prefix's keys and values, run once and broadcast over the rows."""
        if not prefix:
            return None
        caches = [ConcatenateKVCache() for _ in self.model.layers]
        self.model.model(mx.array([prefix]), cache=caches)
        for cache in caches:
            cache.keys = mx.broadcast_to(cache.keys, (rows, *cache.keys.shape[1:]))
            cache.values = mx.broadcast_to(cache.values, (rows, *cache.values.shape[1:]))
        return caches

    def _head(self, hidden: mx.array) -> mx.array:
        if self.model.args.tie_word_embeddings:
            return self.model.model.embed_tokens.as_linear(hidden)
        return self.model.lm_head(hidden)

    # inference

    def logits(self, tokens: Tokens) -> Floats:
        return np.array(self.model(mx.array([tokens]))[0].astype(mx.float32))

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, *, prefix: Tokens = (), on_token: OnToken | None = None
    ) -> Iterator[Completion]:
        """Continuous batching: a row enters as another leaves."""
        ordered = sorted(requests, key=lambda request: len(request.tokens))
        shared = self._prefix_cache(prefix)
        generator = BatchGenerator(
            self.model,
            stop_tokens=[list(stop) for stop in sampling.stop],
            completion_batch_size=sampling.batch_size,
            prefill_batch_size=min(8, sampling.batch_size),
        )
        try:
            keys = generator.insert(
                [list(request.tokens) for request in ordered],
                max_tokens=[sampling.max_tokens] * len(ordered),
                caches=[shared] * len(ordered) if prefix else None,
                samplers=[_sampler(sampling, request.seed) for request in ordered],
            )
            by_uid = dict(zip(keys, ordered, strict=True))
            written: dict[int, list[int]] = {uid: [] for uid in keys}
            while written:
                for response in generator.next_generated():
                    row = written[response.uid]
                    row.append(int(response.token))
                    request = by_uid[response.uid]
                    if on_token is not None:
                        on_token(request.key, row[-1])
                    if response.finish_reason is not None:
                        del written[response.uid]
                        yield Completion(request.key, *unstopped(row, sampling.stop))
        finally:
            generator.close()

    def _prefix_cache(self, prefix: Tokens) -> list[KVCache]:
        caches = [KVCache() for _ in self.model.layers]
        if prefix:
            self.model.model(mx.array([prefix]), cache=caches)
            mx.eval([cache.state for cache in caches])
        return caches

    def score(
        self, prompts: Sequence[Tokens], options: Sequence[Tokens], *, prefix: Tokens = (), batch_size: int = 32
    ) -> NDArray[np.float64]:
        """Each prompt runs once; every option then continues the prompt's cache."""
        scores = np.zeros((len(prompts), len(options)))
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        batch_size = scoring_rows(batch_size, len(options))
        shared = self._prefix_cache(prefix)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            scores[chosen] = self._score_group([prompts[index] for index in chosen], options, shared)
        return scores

    def _score_group(
        self, prompts: Sequence[Tokens], options: Sequence[Tokens], shared: list[KVCache]
    ) -> NDArray[np.float64]:
        rows, count = len(prompts), len(options)
        tokens, lengths = pad_right(prompts)
        caches = [BatchKVCache.merge([cache] * rows) for cache in shared]
        padding = (tokens.shape[1] - lengths).tolist()
        for cache in caches:
            cache.prepare(lengths=lengths.tolist(), right_padding=padding)
        hidden = self.model.model(mx.array(tokens), cache=caches)
        for cache in caches:
            cache.finalize()
        last = hidden[mx.arange(rows), mx.array(lengths - 1)]
        choice, sizes = pad_right(options)
        first = _log_softmax(self._head(last))[:, mx.array(choice[:, 0])]
        total = np.array(first.astype(mx.float32)).astype(np.float64)
        if choice.shape[1] > 1:
            repeated = [_repeat(cache, count) for cache in caches]
            following = np.tile(choice, (rows, 1))
            hidden = self.model.model(mx.array(following[:, :-1]), cache=repeated)
            chances = _log_softmax(self._head(hidden))
            gathered = mx.take_along_axis(chances, mx.array(following[:, 1:, None]), axis=-1)[..., 0]
            real = np.arange(1, choice.shape[1])[None] < np.tile(sizes, rows)[:, None]
            total += (np.array(gathered).astype(np.float64) * real).sum(-1).reshape(rows, count)
        return total


def _log_softmax(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _repeat(cache: BatchKVCache, times: int) -> BatchKVCache:
    """The cache with every row `times` times in a row."""
    keys, values, offset, left_padding, index = cache.state
    repeated = BatchKVCache([0])
    repeated.state = (
        mx.repeat(keys[..., :index, :], times, axis=0),
        mx.repeat(values[..., :index, :], times, axis=0),
        mx.repeat(offset, times),
        mx.repeat(left_padding, times),
        index,
    )
    return repeated


def _sampler(sampling: Sampling, seed: int) -> Callable[[mx.array], mx.array] | None:
    """Draws from log-probabilities [1, vocabulary] with a key of the row's own, so that its text does not depend on
    the rows beside it. None, the generator's default, is greedy."""
    if sampling.temperature == 0:
        return None
    key = mx.random.key(seed)

    def draw(chances: mx.array) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        scaled = chances / sampling.temperature
        scaled = _log_softmax(scaled)
        if sampling.top_p < 1:
            scaled = apply_top_p(scaled, sampling.top_p)
        return mx.random.categorical(scaled, key=now)

    return draw
