"""Loading, adapters, and running a model in MLX."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.gemma2 import GemmaModel
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import _get_classes, load_config, load_model
from numpy.typing import NDArray

from rir_mlx.backends.base import (
    FEWER_ROWS,
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
    initial_lora_a,
)
from rir_mlx.backends.facts import Facts
from rir_mlx.backends.label_tree import Scoring
from rir_mlx.backends.load_check import Checked, PassedChecks, check_forward
from rir_mlx.backends.mlx.forward import (
    MlxForward,
    check_angles,
    has_accelerator,
    prefix_cache,
    shares_memory,
    watched_layers,
)
from rir_mlx.backends.mlx.generation import generate
from rir_mlx.backends.mlx.libraries import OPENBLAS
from rir_mlx.backends.mlx.process_group import MlxProcessGroup, join_process_group
from rir_mlx.backends.mlx.scoring import score
from rir_mlx.backends.mlx.training import (
    Training,
    batch_arrays,
    batch_loss,
    recognised,
)
from rir_mlx.backends.mlx.weights import read_weights
from rir_mlx.errors import Failure, ModelError, OutOfMemory
from rir_mlx.models.adapter_spec import AdapterSpec, Tensors, adapted_layers, no_linear_layer
from rir_mlx.models.config import quantisation_hint, read_config
from rir_mlx.models.families import mlx_config, ties_head
from rir_mlx.models.rotary import LengthLimit, mlx_limit
from rir_mlx.models.weight_files import is_buffer, only_its_weights
from rir_mlx.types import Dtype

_CHECKS = PassedChecks()
_UNLOADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, NameError, SystemExit)
"""What mlx-lm raises for a folder that it cannot load: SystemExit where a model needs a package of its own."""
_CHOOSING = "e_score_correction_bias"


class MlxBackend:
    """A GPU (Metal on Apple silicon, CUDA with that build of MLX), else the processor."""

    name = "mlx"

    def __init__(self) -> None:
        self.processes = join_process_group()

    def device(self) -> Device:
        info = mx.device_info()
        name = str(info.get("device_name") or info.get("architecture") or platform.processor() or "processor")
        usable = info.get("max_recommended_working_set_size") or info.get("memory_size") or info.get("total_memory")
        memory = int(usable or _physical_memory())
        return Device(f"{name}, MLX {mx.__version__}", memory, shares_memory=shares_memory())

    def facts(self) -> Facts:
        gpu = has_accelerator()
        library = OPENBLAS or "the wheel's reference BLAS"
        return Facts(
            self.device().name if gpu else None,
            os.cpu_count() or 1,
            "MLX's own kernels" if gpu else "Accelerate" if sys.platform == "darwin" else library,
            slow=not gpu and sys.platform == "linux" and not OPENBLAS,
            tf32=_computed_in_float32() == "tf32",
            bfloat16=gpu,
            auto="as stored" if gpu else "float32",
        )

    def load(
        self, folder: Path, *, dtype: Dtype = "auto", adapter: tuple[AdapterSpec, Tensors] | None = None
    ) -> MlxModel:
        dtype = adapter[0].base_dtype(dtype) if adapter else dtype
        try:
            stored = load_config(folder)
            with only_its_weights(folder) as shown:
                model, config = _load(shown, mlx_config(stored))
                if (wanted := self._dtype(dtype)) is not None and "quantization" not in config:
                    model.set_dtype(wanted)
                loaded = open_model(model, self.processes, mlx_limit(stored))
                check_angles(model, stored)
                read_weights(model)
        except _UNLOADABLE as error:
            why = " ".join(str(error).split("\n")[:2])  # the rest names every weight that is too much
            why = "it needs a package that is not installed" if isinstance(error, SystemExit) else why
            raise ModelError(
                f"{folder} cannot be loaded as a language model by mlx-lm: {why}",
                hint=quantisation_hint(read_config(folder)) or "Use --backend torch, or choose another model.",
            ) from error
        what = Checked(str(stored["model_type"]), loaded.vocabulary, _computed_in(model))
        _CHECKS.once(f"{what} {stored}", lambda: check_forward(loaded, what))
        if adapter is not None:
            loaded.attach(*adapter)
        return loaded

    def _dtype(self, dtype: Dtype) -> Any:
        """None keeps the folder's own. Without a GPU bfloat16 is emulated, so `auto` is float32 there."""
        if dtype == "auto":
            return None if has_accelerator() else mx.float32
        return getattr(mx, dtype)


def _load(folder: Path, changed: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """mlx-lm's model and its config, with the weights still unread and the keys `changed` in place of the folder's.
    Buffers that older programs stored beside the weights are left out: mlx-lm takes them for unknown weights."""

    def without_buffers(config: dict[str, Any]) -> tuple[type, type]:
        model_class, arguments = _get_classes(config)

        class WithoutBuffers(model_class):  # type: ignore[misc, valid-type]
            def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
                kept = {name: w for name, w in weights.items() if not is_buffer(name, str(w.dtype))}
                head, embedding = (kept.get(f"{name}.weight") for name in ("lm_head", "model.embed_tokens"))
                tied = head is not None and embedding is not None and ties_head(config)
                if tied and not mx.array_equal(head, embedding):  # mlx-lm would leave it out
                    raise ValueError("config.json ties the head to the embedding, and the weights hold another head")
                theirs = getattr(super(), "sanitize", None)
                used = theirs(kept) if theirs else kept
                bias = next((name for name in kept if name.endswith(_CHOOSING) and mx.any(kept[name])), None)
                if bias and not any(name.endswith(_CHOOSING) for name in used):
                    raise ValueError(f"it leaves out {bias}, by which experts are chosen")
                return used

        return WithoutBuffers, arguments

    with contextlib.redirect_stdout(sys.stderr):  # mlx-lm prints its warnings
        return load_model(folder, lazy=True, model_config=changed, get_model_classes=without_buffers)


def open_model(model: Any, processes: SingleProcess | MlxProcessGroup, limit: LengthLimit | None) -> MlxModel:
    """Raises ModelError if mlx-lm's model has another structure than a decoder with layers and a head."""
    inner = getattr(model, "model", None)
    if not hasattr(inner, "embed_tokens") or not hasattr(inner, "layers"):
        raise ModelError(
            f"Models of the type {getattr(model, 'model_type', 'unknown')} are not supported by the MLX backend.",
            hint="Use --backend torch, or choose a model of another family.",
        )
    if isinstance(inner, GemmaModel):
        for layer in inner.layers:
            _accept_batched_masks(layer.self_attn)
    return MlxModel(model, processes, limit)


def _accept_batched_masks(attention: Any) -> None:
    """Let Gemma 2's attention take a mask for each row. Where key heads are shared, mlx-lm adds an axis to the scores
    but none to the mask, so that a batch of rows fails."""
    plain = type(attention)

    class Batched(plain):  # type: ignore[misc, valid-type]
        def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
            if mask is not None and mask.ndim == 4 and self.repeats > 1:
                mask = mask[:, None]
            return plain.__call__(self, x, mask, cache)

    attention.__class__ = Batched


def _computed_in(model: Any) -> str:
    """What the matrices are multiplied in, as `load_check` names it."""
    dtypes = {str(weight.dtype)[9:] for _, weight in tree_flatten(model.parameters()) if weight.ndim > 1}
    return next((name for name in ("bfloat16", "float16") if name in dtypes), _computed_in_float32())


def _computed_in_float32() -> str:
    """How float32 is multiplied: on some GPUs with 10 bits, unless the environment forbids it."""
    return "tf32" if has_accelerator() and os.environ.get("MLX_ENABLE_TF32") != "0" else "float32"


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class MlxModel(MlxForward):
    """An mlx-lm model, with or without an adapter inside."""

    def __init__(
        self, model: Any, processes: SingleProcess | MlxProcessGroup, limit: LengthLimit | None = None
    ) -> None:
        super().__init__(model, processes, limit)
        self.parameters = sum(int(p.size) for _, p in tree_flatten(model.parameters()))
        self.weight_bytes = sum(int(p.nbytes) for _, p in tree_flatten(model.parameters()))
        self.training: Training | None = None
        model.freeze()
        model.eval()

    # adapters

    def add_adapter(self, spec: AdapterSpec, seed: int) -> None:
        self._inject(spec)
        fresh = [
            (name, mx.array(initial_lora_a(name, tensor.shape, seed)))
            for name, tensor in tree_flatten(self.model.trainable_parameters())
            if name.endswith(".lora_a")
        ]
        self.model.load_weights(fresh, strict=False)
        mx.eval(self.model.parameters())

    def attach(self, spec: AdapterSpec, tensors: Tensors) -> None:
        """Put given tensors in place of fresh ones. Raises ModelError if names or shapes differ."""
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
            if any(isinstance(part, (nn.QuantizedLinear, nn.QuantizedEmbedding)) for part in self.model.modules()):
                raise ModelError(
                    "Quantised weights cannot be trained in full.",
                    hint="Set fine_tune_type to lora or dora.",
                )
            self.model.set_dtype(mx.float32)
            self.model.unfreeze()
            return
        layers = self.model.layers
        count = len(adapted_layers(spec, len(layers)))
        linear = {
            name
            for layer in layers
            for name, module in layer.named_modules()
            if isinstance(module, (nn.Linear, nn.QuantizedLinear))
        }
        keys = set(spec.keys) or linear
        if missing := sorted(keys - linear):
            raise no_linear_layer(missing[0], linear)
        parameters = {"rank": spec.rank, "scale": spec.scale, "dropout": spec.dropout, "keys": keys}
        linear_to_lora_layers(self.model, count, parameters, use_dora=spec.fine_tune_type == "dora")
        self.model.freeze()
        self.model.unfreeze(keys=["lora_a", "lora_b", "m"], strict=False)
        self.model.eval()

    def fuse(self) -> None:
        merged = []
        for name, module in self.model.named_modules():
            if not isinstance(module, (LoRALinear, DoRALinear)) or isinstance(module.linear, nn.QuantizedLinear):
                continue
            dtype = module.linear.weight.dtype
            module.linear.weight = module.linear.weight.astype(mx.float32)
            fused = module.fuse()
            fused.weight = fused.weight.astype(dtype)
            mx.eval(fused.parameters())
            module.linear.weight = fused.weight  # one layer at a time: all in float32 would be twice the model
            merged.append((name, fused))
        self.model.update_modules(tree_unflatten(merged))
        self.model.freeze()
        self.training = None

    def trained_tensors(self) -> dict[str, np.ndarray]:
        return {
            name: np.array(tensor.astype(mx.float32))
            for name, tensor in tree_flatten(self.model.trainable_parameters())
        }

    # training

    def configure_optimizer(self, spec: OptimizerSpec, execution: Execution = PLAIN) -> None:
        self.training = Training(self, spec, execution)

    def train_step(self, batches: Sequence[Batch], learning_rate: float, *, seed: int = 0) -> StepResult:
        return self._configured().step(batches, learning_rate, seed)

    def training_loss(self, batch: Batch) -> float:
        return float(batch_loss(self, batch_arrays(batch), gradient="hidden").item())

    def loss(self, batch: Batch) -> float:
        self.check_length(len(batch.prefix) + int(batch.lengths.max(initial=0)))
        try:
            return float(batch_loss(self, batch_arrays(batch), gradient="none").item())
        except RuntimeError as error:
            raise OutOfMemory("These rows do not fit into memory.") from recognised(error)

    def training_state(self) -> TrainingState:
        return self._configured().state()

    def load_training_state(self, state: TrainingState) -> None:
        self._configured().load(state)

    def _configured(self) -> Training:
        if self.training is None:
            raise Failure("Training needs configure_optimizer first.")
        return self.training

    # inference

    def logits(self, tokens: Tokens) -> Float32Array:
        return next(self.last_logits([tokens], len(tokens)))

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]:
        caches = prefix_cache(self, prefix)
        for row in rows:
            self.check_length(len(prefix) + len(row))
            hidden = self.model.model(mx.array([row]), cache=caches)[0]
            yield np.array(self.logits_of(hidden[-last:]).astype(mx.float32))
            for cache in caches:
                cache.trim(len(row))

    def layer_outputs(self, tokens: Tokens) -> list[Float32Array]:
        inner = self.model.model
        return watched_layers(inner, lambda: inner(mx.array([tokens])))

    def generate(
        self,
        requests: Iterable[Request | None],
        sampling: Sampling,
        *,
        prefix: Tokens = (),
        on_token: OnToken | None = None,
    ) -> Iterator[Completion]:
        try:
            yield from generate(self, requests, sampling, prefix, on_token)
        except RuntimeError as error:
            raise OutOfMemory(
                f"{sampling.batch_size} rows at a time do not fit into memory.", hint=FEWER_ROWS
            ) from recognised(error)

    def score(
        self,
        prompts: Sequence[Tokens],
        options: Sequence[Tokens],
        *,
        prefix: Tokens = (),
        batch_size: int = 32,
        mass: bool = True,
    ) -> NDArray[np.float64]:
        try:
            return score(self, prompts, options, Scoring(prefix, batch_size, mass))
        except RuntimeError as error:
            raise OutOfMemory(f"{batch_size} rows at a time do not fit into memory.", hint=FEWER_ROWS) from recognised(
                error
            )
