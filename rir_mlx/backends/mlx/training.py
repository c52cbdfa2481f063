"""A training step in MLX: loss, gradient, update, and the state from which it resumes exactly.

Rows that share a prefix run it once: its keys and values go through mlx-lm's own cache at batch 1 and are broadcast
over the rows; the gradient of the broadcast sums the rows' gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm.models.cache import ConcatenateKVCache
from mlx_lm.utils import maybe_set_recommended_wired_limit

from rir_mlx.backends.base import (
    Batch,
    Execution,
    OptimizerSpec,
    StepResult,
    TrainingState,
    learned_positions,
)
from rir_mlx.backends.mlx.forward import MlxForward, has_accelerator, shares_memory
from rir_mlx.backends.mlx.lm_head import Gradient, lm_head_loss
from rir_mlx.backends.mlx.process_group import MlxProcessGroup
from rir_mlx.errors import Failure, ModelError, OutOfMemory

_OUT_OF_MEMORY = ("out of memory", "malloc", "insufficient memory", "bad_alloc", "maximum allowed buffer size")
_WATCHDOG = ("gpu timeout", "impacting interactivity", "ioaf code 2")
_CACHE = 2 * 2**30
"""Bytes of freed buffers that are kept for the next batch, on a GPU."""
_WIDTH, _POSITIONS = 16, 64
"""A compiled step is traced once per shape: rows are padded to a multiple of this many tokens, and learned positions to
a multiple of this many, so that there are few shapes."""


class Training:
    """The trained part of a model, and its optimizer."""

    def __init__(self, model: MlxForward, spec: OptimizerSpec, execution: Execution) -> None:
        self.model, self.spec = model, spec
        self.optimizer = _optimizer(spec)
        self.optimizer.init(model.model.trainable_parameters())
        if has_accelerator():
            maybe_set_recommended_wired_limit()
            if shares_memory():  # batches differ in shape, and MLX keeps a buffer for every shape
                mx.set_cache_limit(_CACHE)
        gradient: Gradient = "all" if model.lm_head.trainable_parameters() else "hidden"
        self.compiled = has_accelerator() if execution.compile is None else execution.compile
        self.seeds: Iterator[int] = itertools.count()
        if execution.grad_checkpoint:
            dropout = any(isinstance(part, nn.Dropout) and part._p_1 < 1 for part in model.model.modules())
            self.compiled = self.compiled and not dropout  # it would freeze their seeds
            for layer in model.model.layers:
                _checkpoint_layer(layer, (lambda: next(self.seeds)) if dropout else None)
        gradient_of = nn.value_and_grad(model.model, partial(batch_loss, model, gradient=gradient))
        if self.compiled:
            state = [model.model.state, mx.random.state]
            gradient_of = mx.compile(gradient_of, inputs=state, outputs=state)
        self._gradient_of: Callable[..., tuple[mx.array, Any]] = gradient_of

    def step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepResult:
        processes, model = self.model.processes, self.model.model
        mx.random.seed(seed)
        self.seeds = itertools.count(seed << 16)
        loss, gradients, full = self._gradients(batches)
        loss, fulls = processes.all_sum([loss, float(full is not None)])
        if fulls:
            mx.clear_cache()
            raise OutOfMemory("These rows do not fit into memory.") from full
        if isinstance(processes, MlxProcessGroup):
            gradients = processes.sum_gradients(gradients)
        gradients, norm = optim.clip_grad_norm(gradients, self.spec.max_grad_norm)
        result = StepResult(loss=loss, grad_norm=float(norm.item()))
        if np.isfinite(result.loss) and np.isfinite(result.grad_norm):
            self.optimizer.learning_rate = learning_rate
            self.optimizer.update(model, gradients)
            mx.eval(model.trainable_parameters(), self.optimizer.state)
        return result

    def _gradients(self, batches: Sequence[Batch]) -> tuple[float, Any, RuntimeError | None]:
        """The summed loss and its gradients, and the error if memory ran out."""
        model = self.model.model
        total, gradients = 0.0, None
        weights = model.trainable_parameters()
        model.train()
        try:
            for batch in batches:
                self.model.check_length(len(batch.prefix) + int(batch.lengths.max(initial=0)))
                loss, added = self._gradient_of(batch_arrays(batch, few_shapes=self.compiled))
                gradients = added if gradients is None else tree_map(mx.add, gradients, added)
                mx.eval(loss, gradients)
                total += loss.item()
        except RuntimeError as error:
            full = recognised(error)
            full.__traceback__ = None  # its frames hold the activations
            model.update(weights)  # a checkpointed layer left them as part of the failed graph
            return 0.0, None, full
        finally:
            model.eval()
        if gradients is None:
            gradients = tree_map(mx.zeros_like, model.trainable_parameters())
        return total, gradients, None

    def state(self) -> TrainingState:
        trees = {"weights": self.model.model.trainable_parameters(), "optimizer": self.optimizer.state}
        return TrainingState({name: np.array(array) for name, array in tree_flatten(trees)})

    def load(self, state: TrainingState) -> None:
        own = dict(tree_flatten(self.model.model.trainable_parameters()))
        given: dict[str, Any] = tree_unflatten([(name, mx.array(array)) for name, array in state.tensors.items()])
        weights = dict(tree_flatten(given["weights"]))
        if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in own.items()}:
            raise ModelError("The checkpoint does not fit this model: its tensors have other names or shapes.")
        self.model.model.update(given["weights"])
        self.optimizer.state = given["optimizer"]
        mx.eval(self.model.model.parameters(), self.optimizer.state)


def batch_arrays(batch: Batch, *, few_shapes: bool = False) -> tuple[mx.array, ...]:
    """The prefix [1, P], the tokens [rows, T], and the positions, targets and weights that the batch learns
    [positions].

    `few_shapes` pads: rows to the right, the positions with weight 0."""
    positions, targets, weights = learned_positions(batch)
    tokens = batch.tokens
    if few_shapes:
        width = tokens.shape[1]
        tokens = np.pad(tokens, ((0, 0), (0, -width % _WIDTH)))
        positions = positions // width * tokens.shape[1] + positions % width
        more = (0, -len(positions) % _POSITIONS)
        positions, targets, weights = np.pad(positions, more), np.pad(targets, more), np.pad(weights, more)
    prefix = np.array([batch.prefix], dtype=np.int32)
    return tuple(mx.array(array) for array in (prefix, tokens, positions, targets, weights))


def batch_loss(model: MlxForward, arrays: tuple[mx.array, ...], *, gradient: Gradient) -> mx.array:
    """The weighted loss of a batch, given as `batch_arrays`: its prefix runs once, and only learned positions are
    projected."""
    prefix, tokens, positions, targets, weights = arrays
    rows, width = tokens.shape
    hidden = model.model.model(tokens, cache=_broadcast_prefix(model, prefix, rows))
    return lm_head_loss(model, hidden.reshape(rows * width, -1)[positions], targets, weights, gradient)


def _broadcast_prefix(model: MlxForward, prefix: mx.array, rows: int) -> list[ConcatenateKVCache] | None:
    """The prefix's keys and values, run once and broadcast over the rows."""
    if not prefix.size:
        return None
    caches = [ConcatenateKVCache() for _ in model.model.layers]
    model.model.model(prefix, cache=caches)
    for cache in caches:
        cache.keys = mx.broadcast_to(cache.keys, (rows, *cache.keys.shape[1:]))
        cache.values = mx.broadcast_to(cache.values, (rows, *cache.values.shape[1:]))
    return caches


def recognised(error: RuntimeError) -> RuntimeError:
    """The error, if it means that memory ran out. Otherwise raises it, or a clearer one."""
    words = str(error).lower()
    if any(known in words for known in _WATCHDOG):
        raise Failure(
            "macOS stopped a computation on the GPU that took too long while the display is on.",
            hint="Switch the display off or run over SSH; then the same command continues from the last checkpoint. A "
            "lower batch_size helps too. AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1 in the environment lifts the limit, but a "
            "hard reboot was reported with it.",
        ) from error
    if any(known in words for known in _OUT_OF_MEMORY):
        return error
    raise error


def _optimizer(spec: OptimizerSpec) -> Any:
    betas, epsilon = [spec.beta1, spec.beta2], spec.epsilon
    match spec.name:
        case "adamw":
            return optim.AdamW(0.0, betas, epsilon, weight_decay=spec.weight_decay, bias_correction=True)
        case "adam":
            return optim.Adam(0.0, betas, epsilon, bias_correction=True)
        case "sgd":
            return optim.SGD(0.0, momentum=spec.beta1)
        case "rmsprop":
            return optim.RMSprop(0.0, eps=epsilon)
        case "adagrad":
            return optim.Adagrad(0.0, eps=epsilon)
        case "adafactor":
            return optim.Adafactor(0.0, relative_step=False)


def _checkpoint_layer(layer: Any, next_seed: Callable[[], int] | None) -> None:
    """Let a decoder layer keep only its input and recompute the rest in the backward pass.

    mlx-lm's own version handles neither caches, which would grow with each computation, nor dropout, which would be
    drawn again. Here the cache's arrays go in and come out, with a separate cache inside, and both computations start
    from the same seed.
    """
    plain = type(layer)

    class Checkpointed(plain):  # type: ignore[misc, valid-type]
        def __call__(self, x: mx.array, *given: Any, **named: Any) -> mx.array:
            caches = [value for value in (*given, *named.values()) if hasattr(value, "update_and_fetch")]
            cache = caches[0] if caches else None
            if not (self.training and isinstance(cache, ConcatenateKVCache | None)):
                return plain.__call__(self, x, *given, **named)
            seed = None if next_seed is None else next_seed()

            def again(parameters: Any, x: mx.array, *seen: mx.array) -> tuple[mx.array, ...]:
                self.update(parameters)
                inside = ConcatenateKVCache()
                if seen:
                    inside.state = seen
                if seed is not None:
                    mx.random.seed(seed)
                in_order = [inside if value is cache else value for value in given] if caches else given
                by_name = {name: inside if caches and value is cache else value for name, value in named.items()}
                out = plain.__call__(self, x, *in_order, **by_name)
                return (out,) if cache is None else (out, inside.keys, inside.values)

            seen = () if cache is None or cache.keys is None else (cache.keys, cache.values)
            out, *now = mx.checkpoint(again)(self.trainable_parameters(), x, *seen)
            if cache is not None:
                cache.state = now
            return out

    layer.__class__ = Checkpointed
