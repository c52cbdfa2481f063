"""A training step in PyTorch: loss, gradient, update, and the state from which it resumes exactly.

Rows that share a prefix run it once: its keys and values go through transformers' own cache at batch 1, are expanded
over the rows, and autograd sums the rows' gradients through the expansion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from transformers import Cache

from rir_mlx.backends.base import (
    Batch,
    Execution,
    OptimizerSpec,
    StepResult,
    TrainingState,
    learned_positions,
)
from rir_mlx.backends.torch.forward import TorchForward
from rir_mlx.backends.torch.layers.lm_head import lm_head_loss
from rir_mlx.backends.torch.process_group import TorchProcessGroup
from rir_mlx.errors import ModelError, OutOfMemory

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")


class Training:
    """The trained part of a model, and its optimizer."""

    def __init__(self, model: TorchForward, spec: OptimizerSpec, execution: Execution) -> None:
        self.model, self.spec, self.execution = model, spec, execution
        self.optimizer = _optimizer(list(model.trained.values()), spec)
        if execution.grad_checkpoint:
            for index, layer in enumerate(model.layers):
                _checkpoint_layer(layer, index)
        if execution.compile:
            for layer in model.layers:
                layer.mlp.compile(dynamic=True)

    def step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepResult:
        processes, parameters = self.model.processes, list(self.model.trained.values())
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
        loss, full = self._gradients(batches)
        loss, fulls = processes.all_sum([loss, float(full is not None)])
        if fulls:
            self.optimizer.zero_grad(set_to_none=True)
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            raise OutOfMemory(f"These rows do not fit into the memory of {self.model.device}.") from full
        if isinstance(processes, TorchProcessGroup):
            processes.sum_gradients(parameters)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.spec.max_grad_norm))
        if np.isfinite(loss) and np.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss=loss, grad_norm=norm)

    def _gradients(self, batches: Sequence[Batch]) -> tuple[float, RuntimeError | None]:
        """The summed loss, its gradients added to the parameters, and the error if memory ran out."""
        self._drop_out(True)
        total = torch.zeros((), device=self.model.device)
        try:
            for batch in batches:
                loss = batch_loss(self.model, batch)
                loss.backward()
                total += loss.detach()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            error.__traceback__ = None  # its frames hold the activations
            return 0.0, error
        finally:
            self._drop_out(False)
        return float(total), None

    def _drop_out(self, acts: bool) -> None:
        """Switch the adapter's dropout on or off. The model's own dropout, which some families have, stays off."""
        for name, module in self.model.model.named_modules():
            if name.endswith(".lora_dropout"):
                module.train(acts)

    def state(self) -> TrainingState:
        tensors: dict[str, np.ndarray] = {}
        for name, parameter in self.model.trained.items():
            tensors[f"weights/{name}"] = _array(parameter)
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{key}"] = _array(value)
        return TrainingState(tensors)

    def load(self, state: TrainingState) -> None:
        slots: dict[str, dict[str, torch.Tensor]] = {name: {} for name in self.model.trained}
        missing = set(self.model.trained)
        fused = self.optimizer.param_groups[0].get("fused")
        with torch.no_grad():
            for key, array in state.tensors.items():
                kind, name, *slot = key.split("/")
                parameter = self.model.trained.get(name)
                if parameter is None or (kind == "weights" and array.shape != tuple(parameter.shape)):
                    raise ModelError(f"The checkpoint does not fit this model: {key}.")
                missing.discard(name if kind == "weights" else "")
                tensor = torch.from_numpy(np.array(array))
                if kind == "weights":
                    parameter.copy_(tensor)
                else:
                    stays = slot[0] == "step" and not fused  # on the processor
                    slots[name][slot[0]] = tensor if stays else tensor.to(parameter.device)
        if missing:
            raise ModelError(f"The checkpoint does not fit this model: it lacks {min(missing)}.")
        for name, values in slots.items():
            if values:
                self.optimizer.state[self.model.trained[name]] = values


def out_of_memory(error: RuntimeError) -> bool:
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def batch_loss(model: TorchForward, batch: Batch) -> torch.Tensor:
    """The weighted loss of a batch: its prefix runs once, and only learned positions are projected."""
    model.check_length(len(batch.prefix) + int(batch.lengths.max(initial=0)))
    tokens = model.tensor(batch.tokens)
    rows, width = tokens.shape
    # Sent before any layer runs, so that no copy stands between two of them.
    positions, targets, weights = (model.tensor(array) for array in learned_positions(batch))
    cache = model.prefix_cache(batch.prefix, rows)
    hidden = model.run(tokens, cache, model.causal(len(batch.prefix), width))
    return lm_head_loss(model.lm_head, hidden.reshape(rows * width, -1)[positions], targets, weights, model.transform)


def _optimizer(parameters: list[torch.nn.Parameter], spec: OptimizerSpec) -> torch.optim.Optimizer:
    betas, epsilon = (spec.beta1, spec.beta2), spec.epsilon
    fused = fuses(parameters[0].device) or None  # None leaves the choice to PyTorch
    match spec.name:
        case "adamw":
            return torch.optim.AdamW(parameters, betas=betas, eps=epsilon, weight_decay=spec.weight_decay, fused=fused)
        case "adam":
            return torch.optim.Adam(parameters, betas=betas, eps=epsilon, fused=fused)
        case "sgd":
            return torch.optim.SGD(parameters, momentum=spec.beta1)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, eps=epsilon)
        case "adagrad":
            return torch.optim.Adagrad(parameters, eps=epsilon)
        case "adafactor":
            return torch.optim.Adafactor(parameters, eps=(1e-15, 1e-3))


def fuses(device: torch.device) -> bool:
    """Whether Adam updates all weights in one kernel: on a GPU an adapter's hundreds of small tensors take several
    launches each otherwise."""
    return device.type == "cuda"


def _checkpoint_layer(layer: Any, index: int) -> None:
    """Let a decoder layer keep only its input and recompute the rest in the backward pass.

    transformers' own checkpointing drops the cache, and so the shared prefix. Here the layer's part of the cache is
    restored before each computation, so that the second repeats the first. The cache is found by its type, because
    transformers has passed it under several names.
    """
    forward = layer.forward

    def run(hidden: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        caches = [value for value in (*arguments, *named.values()) if isinstance(value, Cache)]
        if not torch.is_grad_enabled() or not caches:
            return forward(hidden, *arguments, **named)
        cache = caches[0].layers[index]
        before = dict(vars(cache))

        def again(hidden: torch.Tensor) -> Any:
            vars(cache).update(before)
            return forward(hidden, *arguments, **named)

        return checkpoint(again, hidden, use_reentrant=False)

    layer.forward = run


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(torch.as_tensor(tensor).detach().cpu().numpy())
