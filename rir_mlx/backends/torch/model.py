"""Loading, adapters, and running a model in PyTorch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

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
from rir_mlx.backends.torch.decoding.generation import generate
from rir_mlx.backends.torch.forward import TorchForward, kept_prefix
from rir_mlx.backends.torch.layers.attention import register as products_attention
from rir_mlx.backends.torch.layers.lm_head import rows_together
from rir_mlx.backends.torch.process_group import TorchProcessGroup, join_process_group
from rir_mlx.backends.torch.scoring import score
from rir_mlx.backends.torch.threads import in_threads, threads, threads_for
from rir_mlx.backends.torch.training import Training, batch_loss, out_of_memory
from rir_mlx.errors import Failure, ModelError, OutOfMemory
from rir_mlx.models.adapter_spec import AdapterSpec, Tensors, adapted_layers, no_linear_layer
from rir_mlx.models.config import quantisation_hint, read_config
from rir_mlx.models.families import ModelShape
from rir_mlx.models.weight_files import is_buffer, only_its_weights
from rir_mlx.types import Dtype

_CHECKS = PassedChecks()
UNLOADABLE = (OSError, ValueError, KeyError, RuntimeError, AttributeError, ImportError, SafetensorError)
"""What transformers raises for a folder that it cannot load; ImportError where a quantisation needs its own package."""
_SUFFIXES = {
    "lora_A.default.weight": "lora_a",
    "lora_B.default.weight": "lora_b",
    "lora_magnitude_vector.default.weight": "m",
}
"""PEFT's parameter names inside a module, and mlx-lm's."""


def default_device() -> torch.device:
    """CUDA where there is one, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it faster than float32."""
    fast = device.type == "cuda" or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32


def multiplied_in(dtype: torch.dtype, device: torch.device) -> str:
    """The number format of products, as `load_check` names it: a GPU multiplies float32 with 10 bits where the program
    or `TORCH_ALLOW_TF32_CUBLAS_OVERRIDE` says so."""
    blurred = dtype is torch.float32 and device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return "tf32" if blurred else str(dtype)[6:]


class TorchBackend:
    """CUDA where there is one, else the processor."""

    name = "torch"

    def __init__(self) -> None:
        self.target = default_device()
        if self.target.type == "cuda":
            torch.cuda.set_device(self.target)
        self.processes = join_process_group(self.target)

    def device(self) -> Device:
        if self.target.type == "cuda":
            properties = torch.cuda.get_device_properties(self.target)
            name, memory = properties.name, properties.total_memory
        else:
            count = torch.get_num_threads()
            name = f"{count} processor core{'s' * (count > 1)}"
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device(f"{name}, PyTorch {torch.__version__}", memory, shares_memory=self.target.type != "cuda")

    def facts(self) -> Facts:
        gpu = self.target.type == "cuda"
        library = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
        return Facts(
            torch.cuda.get_device_name(self.target) if gpu else None,
            torch.get_num_threads(),
            "cuBLAS" if gpu else library[1].upper() if library else "PyTorch's own kernels",
            tf32=multiplied_in(torch.float32, self.target) == "tf32",
            bfloat16=fast_dtype(self.target) is torch.bfloat16,
            auto=str(fast_dtype(self.target))[6:],
        )

    def load(
        self, folder: Path, *, dtype: Dtype = "auto", adapter: tuple[AdapterSpec, Tensors] | None = None
    ) -> TorchModel:
        dtype = adapter[0].base_dtype(dtype) if adapter else dtype
        loaded = self._load(folder, self._dtype(dtype), products_attention())
        config = loaded.model.config
        vocabulary = ModelShape.of(config.to_dict()).vocabulary
        what = Checked(str(config.model_type), vocabulary, multiplied_in(loaded.lm_head.weight.dtype, self.target))
        _CHECKS.once(f"{what} {read_config(folder)}", lambda: check_forward(loaded, what))
        if adapter is not None:
            loaded.attach(*adapter)
        return loaded

    def _load(self, folder: Path, dtype: torch.dtype, attention: str) -> TorchModel:
        transformers_logging.disable_progress_bar()
        try:
            with only_its_weights(folder) as shown:
                model, report = AutoModelForCausalLM.from_pretrained(
                    shown,
                    dtype=dtype,
                    attn_implementation=attention,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except UNLOADABLE as error:
            why, mend = error, "Choose another model, or fetch the folder again."
            if error.args == (attention,):
                why, mend = "its attention cannot be replaced", "Choose another model."
            hint = quantisation_hint(read_config(folder)) or mend
            raise ModelError(f"{folder} cannot be loaded as a language model: {why}", hint=hint) from error
        _check_names(folder, report)
        return TorchModel(model.to(self.target).eval(), self.processes)

    def _dtype(self, dtype: Dtype) -> torch.dtype:
        if dtype != "auto":
            named: torch.dtype = getattr(torch, dtype)
            return named
        return fast_dtype(self.target)


class TorchModel(TorchForward):
    """A transformers model, with or without an adapter inside."""

    def __init__(self, model: Any, processes: SingleProcess | TorchProcessGroup) -> None:
        super().__init__(model, processes)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.head_rows = rows_together(self.lm_head.weight)
        self.training: Training | None = None
        self.threads = threads_for(model, self.device)
        model.requires_grad_(False)

    # adapters

    def add_adapter(self, spec: AdapterSpec, seed: int) -> None:
        self._inject(spec)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                if name.endswith(".lora_a"):
                    rank, width = parameter.shape
                    parameter.copy_(torch.from_numpy(initial_lora_a(name, (width, rank), seed).T))

    def attach(self, spec: AdapterSpec, tensors: Tensors) -> None:
        """Put given tensors in place of fresh ones. Raises ModelError if names or shapes differ."""
        self._inject(spec)
        if set(tensors) != set(self.trained):
            odd = sorted(set(tensors) ^ set(self.trained))[0]
            raise ModelError(f"The adapter does not fit this model: {odd} is in one of them only.")
        with torch.no_grad():
            for name, parameter in self.trained.items():
                given = torch.from_numpy(_transposed(name, np.asarray(tensors[name], dtype=np.float32)))
                if given.shape != parameter.shape:
                    raise ModelError(
                        f"The adapter does not fit this model: {name} is {tuple(given.shape)}, "
                        f"not {tuple(parameter.shape)}."
                    )
                parameter.copy_(given)
        self.model.eval()

    def _inject(self, spec: AdapterSpec) -> None:
        if spec.fine_tune_type == "full":
            self.model.float()
            self.model.requires_grad_(True)
            self.trained = dict(self.model.named_parameters())
            return
        layers = adapted_layers(spec, self.model.config.num_hidden_layers)
        linear = self._linear_keys()
        keys = spec.keys or linear
        if missing := [key for key in keys if key not in linear]:
            raise no_linear_layer(missing[0], linear)
        targets = [f"{layer}.{key}" for layer in layers for key in keys]
        from peft import LoraConfig, inject_adapter_in_model  # seconds, which a model without an adapter saves
        from peft.tuners.lora import Linear as LoraLinear

        from rir_mlx.backends.torch.layers.lora import fuse_forward

        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.scale * spec.rank,
            lora_dropout=spec.dropout,
            use_dora=spec.fine_tune_type == "dora",
            target_modules=targets,
        )
        # Into the layers: in a whole model PEFT may take these names for those that experts had in older versions.
        inject_adapter_in_model(config, self.layers)
        for module in self.model.modules():
            if isinstance(module, LoraLinear):
                module.cast_input_dtype_enabled = False  # autocast sees to it
                fuse_forward(module)
        self.trained = {}
        for name, parameter in self.model.named_parameters():
            for theirs, ours in _SUFFIXES.items():
                if name.endswith(theirs):
                    parameter.data = parameter.data.float()
                    parameter.requires_grad_(True)
                    self.trained[name.removesuffix(theirs) + ours] = parameter
        self.model.eval()

    def _linear_keys(self) -> tuple[str, ...]:
        """The linear modules of the layers, by their names inside one. Raises ModelError if there are none. A subclass
        that computes something else, such as a router, is not one."""
        found = dict.fromkeys(
            name
            for layer in self.layers
            for name, part in layer.named_modules()
            if isinstance(part, torch.nn.Linear) and type(part).forward is torch.nn.Linear.forward
        )
        if not found or not hasattr(self.model.get_decoder(), "layers"):
            raise ModelError(
                f"Models of the type {self.model.config.model_type} take no adapter: they have no linear modules.",
                hint="Set fine_tune_type to full, or choose another model.",
            )
        return tuple(found)

    def fuse(self) -> None:
        from rir_mlx.backends.torch.layers.lora import merge

        merge(self.model)
        self.trained, self.training = {}, None

    def trained_tensors(self) -> dict[str, np.ndarray]:
        return {
            name: np.array(_transposed(name, parameter.detach().float().cpu().numpy()), order="C")
            for name, parameter in self.trained.items()
        }

    # training

    def configure_optimizer(self, spec: OptimizerSpec, execution: Execution = PLAIN) -> None:
        self.training = Training(self, spec, execution)

    def train_step(self, batches: Sequence[Batch], learning_rate: float, *, seed: int = 0) -> StepResult:
        with threads(self.threads):
            return self._configured().step(batches, learning_rate, seed)

    def training_loss(self, batch: Batch) -> float:
        return float(batch_loss(self, batch).detach())

    @torch.no_grad()
    def loss(self, batch: Batch) -> float:
        try:
            with threads(self.threads):
                return self.training_loss(batch)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            error.__traceback__ = None
            raise OutOfMemory(f"These rows do not fit into the memory of {self.device}.") from error

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
        return in_threads(self.threads, self._last_logits(rows, last, prefix))

    @torch.inference_mode()
    def _last_logits(self, rows: Iterable[Tokens], last: int, prefix: Tokens) -> Iterator[Float32Array]:
        cache = kept_prefix(self, prefix)
        for row in rows:
            self.check_length(len(prefix) + len(row))
            hidden = self.run(self.tensor(np.array([row])), cache, self.causal(len(prefix), len(row)))[0]
            yield np.asarray(self.logits_of(hidden[-last:]).float().cpu().numpy())

    @torch.inference_mode()
    def layer_outputs(self, tokens: Tokens) -> list[Float32Array]:
        seen: list[torch.Tensor] = []

        def keep(_module: object, given: Any, named: Any, output: Any) -> None:
            if not seen:
                seen.append(given[0] if given else named["hidden_states"])
            seen.append(output[0] if isinstance(output, tuple) else output)

        hooks = [layer.register_forward_hook(keep, with_kwargs=True) for layer in self.layers]
        try:
            self.run(self.tensor(np.array([tokens])), self.empty_cache(), self.causal(0, len(tokens)))
        finally:
            for hook in hooks:
                hook.remove()
        return [np.asarray(output[0].float().cpu().numpy()) for output in seen]

    def generate(
        self,
        requests: Iterable[Request | None],
        sampling: Sampling,
        *,
        prefix: Tokens = (),
        on_token: OnToken | None = None,
    ) -> Iterator[Completion]:
        try:
            yield from in_threads(self.threads, generate(self, requests, sampling, prefix, on_token))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemory(
                f"{sampling.batch_size} rows at a time do not fit into {self.device}.", hint=FEWER_ROWS
            ) from error

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
            with threads(self.threads):
                return score(self, prompts, options, Scoring(prefix, batch_size, mass))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemory(f"{batch_size} rows at a time do not fit into {self.device}.", hint=FEWER_ROWS) from error


def _check_names(folder: Path, report: dict[str, Any]) -> None:
    """Refuse weights that are missing, which transformers would fill with random numbers, and weights that the config
    has no place for, which it would leave out: then one of the two is of another model."""
    missing = sorted(report["missing_keys"])
    odd = sorted(name for name in report["unexpected_keys"] if not is_buffer(name, "int64"))
    if missing:
        raise ModelError(
            f"{folder} cannot be loaded as a language model: it lacks the weight {missing[0]}.",
            hint="Choose a causal language model, or fetch the folder again.",
        )
    if odd:
        raise ModelError(
            f"{folder} cannot be loaded as a language model: its config.json has no place for the weight {odd[0]}.",
            hint="Fetch config.json and the weights again: one of them is of another model.",
        )


def _transposed(name: str, array: np.ndarray) -> np.ndarray:
    """Between mlx-lm's layout of a low-rank factor and PEFT's, which is its transpose. Other tensors are alike."""
    return array.T if name.endswith((".lora_a", ".lora_b")) else array
