"""PyTorch: transformers' models and caches, PEFT's adapters. The only file that imports torch.

Rows that share a prefix run it once: its keys and values go through the library's own cache at batch 1, are
expanded over the rows, and autograd sums the rows' gradients where they were expanded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, inject_adapter_in_model
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging as transformers_logging

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
    stop_length,
    unstopped,
)
from rir_mlx.errors import Failure, ModelError

_ONE_THREAD = 20_000_000
"""Below so many weights one thread is as fast as several: theirs spin while they wait for each other, and beside any
other busy process they slow down a hundredfold (measured on two cores)."""
_SUFFIXES = {
    "lora_A.default.weight": "lora_a",
    "lora_B.default.weight": "lora_b",
    "lora_magnitude_vector.default.weight": "m",
}
"""PEFT's parameter names inside a module, and mlx-lm's."""


class TorchBackend:
    """CUDA where there is one, else the processor."""

    name = "torch"

    def __init__(self) -> None:
        self.target = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def device(self) -> Device:
        if self.target.type == "cuda":
            properties = torch.cuda.get_device_properties(self.target)
            name, memory = properties.name, properties.total_memory
        else:
            count = torch.get_num_threads()
            name = f"{count} processor core{'s' * (count > 1)}"
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device(f"{name}, PyTorch {torch.__version__}", memory)

    def load(
        self, folder: Path, *, dtype: Dtype = "auto", adapter: tuple[AdapterSpec, Tensors] | None = None
    ) -> TorchModel:
        transformers_logging.disable_progress_bar()
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=self._dtype(dtype),
                attn_implementation="sdpa",
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError) as error:
            raise ModelError(f"{folder} cannot be loaded as a language model: {error}") from error
        if missing := sorted(report["missing_keys"]):  # which transformers would fill with random numbers
            raise ModelError(f"{folder} cannot be loaded as a language model: it lacks the weight {missing[0]}.")
        loaded = TorchModel(model.to(self.target).eval())
        if self.target.type == "cpu" and loaded.parameters < _ONE_THREAD:
            torch.set_num_threads(1)
        if adapter is not None:
            loaded.attach(*adapter)
        return loaded

    def _dtype(self, dtype: Dtype) -> torch.dtype:
        if dtype != "auto":
            named: torch.dtype = getattr(torch, dtype)
            return named
        if self.target.type == "cuda":
            return torch.bfloat16
        fast = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
        return torch.bfloat16 if fast else torch.float32


class TorchModel:
    """A transformers model, with or without an adapter inside."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.parameters = sum(p.numel() for p in model.parameters())
        self.trained: dict[str, torch.nn.Parameter] = {}
        self.optimizer: torch.optim.AdamW | None = None
        self.max_grad_norm = 1.0
        model.requires_grad_(False)

    # adapters

    def add_adapter(self, spec: AdapterSpec, seed: int) -> None:
        torch.manual_seed(seed)
        self._inject(spec)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                if name.endswith(".lora_a"):
                    rank, width = parameter.shape
                    parameter.copy_(torch.from_numpy(initial_lora_a(name, (width, rank), seed).T))

    def attach(self, spec: AdapterSpec, tensors: Tensors) -> None:
        """Put given tensors in place of fresh ones. Raises ModelError where names or shapes differ."""
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
        keys = spec.keys or LINEAR_KEYS
        names = {name for name, module in self.model.named_modules() if isinstance(module, torch.nn.Linear)}
        targets = [f"model.layers.{layer}.{key}" for layer in layers for key in keys]
        if missing := [target for target in targets if target not in names]:
            raise ModelError(f"The model has no linear layer {missing[0]}.", mend="Mend lora_parameters.keys.")
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.scale * spec.rank,
            lora_dropout=spec.dropout,
            use_dora=spec.fine_tune_type == "dora",
            target_modules=targets,
        )
        self.model = inject_adapter_in_model(config, self.model)
        self.trained = {}
        for name, parameter in self.model.named_parameters():
            for theirs, ours in _SUFFIXES.items():
                if name.endswith(theirs):
                    parameter.data = parameter.data.float()
                    parameter.requires_grad_(True)
                    self.trained[name.removesuffix(theirs) + ours] = parameter
        self.model.eval()

    def trained_tensors(self) -> dict[str, np.ndarray]:
        return {
            name: np.array(_transposed(name, parameter.detach().float().cpu().numpy()), order="C")
            for name, parameter in self.trained.items()
        }

    # training

    def configure_optimizer(self, spec: OptimizerSpec) -> None:
        self.max_grad_norm = spec.max_grad_norm
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            betas=(spec.beta1, spec.beta2),
            eps=spec.epsilon,
            weight_decay=spec.weight_decay,
        )

    def train_step(self, batches: Sequence[Batch], learning_rate: float) -> StepResult:
        if self.optimizer is None:
            raise Failure("train_step needs configure_optimizer first")
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            loss = self._loss(batch)
            loss.backward()
            total += loss.item()
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained.values(), self.max_grad_norm))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.model.eval()
        return StepResult(loss=total, grad_norm=norm)

    @torch.no_grad()
    def loss(self, batch: Batch) -> float:
        return float(self._loss(batch))

    def _loss(self, batch: Batch) -> torch.Tensor:
        tokens = self._tensor(batch.tokens)
        rows, width = tokens.shape
        cache = self._prefix_cache(batch.prefix, rows)
        hidden = self._run(tokens, cache, self._causal(len(batch.prefix), width))
        positions, targets, weights = learned_positions(batch)
        chosen = hidden.reshape(rows * width, -1)[self._tensor(positions)]
        logits = self.model.get_output_embeddings()(chosen).float()
        losses = torch.nn.functional.cross_entropy(logits, self._tensor(targets), reduction="none")
        return (losses * self._tensor(weights)).sum()

    def _prefix_cache(self, prefix: Tokens, rows: int) -> DynamicCache:
        """The prefix's keys and values, run once and expanded over the rows."""
        cache = DynamicCache(config=self.model.config)
        if prefix:
            self._run(self._tensor(np.array([prefix])), cache, self._causal(0, len(prefix)))
            for layer in cache.layers:
                layer.keys = layer.keys.expand(rows, -1, -1, -1)
                layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache

    def _run(
        self, tokens: torch.Tensor, cache: DynamicCache, mask: torch.Tensor, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states [rows, T, width] after the cache. `mask` [1 or rows, 1, T, seen] is True where to attend."""
        if positions is None:
            start = cache.get_seq_length()
            positions = torch.arange(start, start + tokens.shape[1], device=self.device)[None]
        output = self.model.get_decoder()(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _causal(self, before: int, width: int) -> torch.Tensor:
        ones = torch.ones(width, before + width, dtype=torch.bool, device=self.device)
        return ones.tril(diagonal=before)[None, None]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, device=self.device)

    # inference

    @torch.inference_mode()
    def logits(self, tokens: Tokens) -> Floats:
        hidden = self._run(
            self._tensor(np.array([tokens])), DynamicCache(config=self.model.config), self._causal(0, len(tokens))
        )
        return np.asarray(self.model.get_output_embeddings()(hidden)[0].float().cpu().numpy())

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, *, prefix: Tokens = (), on_token: OnToken | None = None
    ) -> Iterator[Completion]:
        ordered = sorted(requests, key=lambda request: len(request.tokens))
        for start in range(0, len(ordered), sampling.batch_size):
            group = ordered[start : start + sampling.batch_size]
            yield from self._generate_group(group, sampling, prefix, on_token)

    @torch.inference_mode()
    def _generate_group(
        self, group: Sequence[Request], sampling: Sampling, prefix: Tokens, on_token: OnToken | None
    ) -> Iterator[Completion]:
        """Rows of like length, left-padded; a finished row leaves the batch at once."""
        state = _Rows.prefill(self, [request.tokens for request in group], prefix)
        alive = list(range(len(group)))
        written: list[list[int]] = [[] for _ in group]
        draws = [torch.Generator(self.device).manual_seed(request.seed) for request in group]
        while alive:
            logits = self.model.get_output_embeddings()(state.last).float()
            drawn = [_draw(row, sampling, draws[index]) for row, index in zip(logits, alive, strict=True)]
            going = []
            for slot, (index, token) in enumerate(zip(alive, torch.stack(drawn).tolist(), strict=True)):
                written[index].append(token)
                if on_token is not None:
                    on_token(group[index].key, token)
                if stop_length(written[index], sampling.stop) or len(written[index]) >= sampling.max_tokens:
                    yield Completion(group[index].key, *unstopped(written[index], sampling.stop))
                else:
                    going.append(slot)
            alive = [alive[slot] for slot in going]
            if alive:
                state.keep(going)
                state.append(self, self._tensor(np.array([[written[index][-1]] for index in alive])))

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[Tokens], options: Sequence[Tokens], *, prefix: Tokens = (), batch_size: int = 32
    ) -> NDArray[np.float64]:
        """Each prompt runs once; every option then continues the prompt's cache."""
        scores = np.zeros((len(prompts), len(options)))
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        batch_size = scoring_rows(batch_size, len(options))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            scores[chosen] = self._score_group([prompts[index] for index in chosen], options, prefix)
        return scores

    def _score_group(self, prompts: Sequence[Tokens], options: Sequence[Tokens], prefix: Tokens) -> NDArray[np.float64]:
        padded, lengths = pad_right(options)
        tokens = self._tensor(padded.astype(np.int64))
        state = _Rows.prefill(self, prompts, prefix)
        head = self.model.get_output_embeddings()
        first = torch.log_softmax(head(state.last).float(), dim=-1)[:, tokens[:, 0]]
        if padded.shape[1] == 1:
            return np.asarray(first.double().cpu().numpy())
        state.repeat(len(options))
        hidden = state.append(self, tokens[:, :-1].repeat(len(prompts), 1))
        rest = torch.log_softmax(head(hidden).float(), dim=-1)
        targets = tokens[:, 1:].repeat(len(prompts), 1)
        gathered = rest.gather(-1, targets[..., None])[..., 0]
        real = self._tensor(np.arange(1, padded.shape[1])[None] < lengths[:, None]).repeat(len(prompts), 1)
        following = (gathered * real).sum(-1).view(len(prompts), len(options))
        return np.asarray((first.double() + following.double()).cpu().numpy())


class _Rows:
    """The caches of rows that were prefilled together: prefix, left padding, then each row's own tokens."""

    def __init__(self, cache: DynamicCache, seen: torch.Tensor, last: torch.Tensor) -> None:
        self.cache = cache
        self.seen = seen  # [rows, cached] True where the cache holds a real token
        self.last = last  # [rows, width] hidden state of the last token

    @classmethod
    def prefill(cls, model: TorchModel, rows: Sequence[Tokens], prefix: Tokens) -> _Rows:
        longest = max(len(row) for row in rows)
        padded = np.array([[0] * (longest - len(row)) + list(row) for row in rows])
        real = np.array([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
        seen = np.ones((len(rows), len(prefix)), dtype=bool)
        state = cls(model._prefix_cache(prefix, len(rows)), model._tensor(seen), torch.empty(0))
        state.append(model, model._tensor(padded), model._tensor(real))
        return state

    def append(self, model: TorchModel, tokens: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """Run [rows, T] more tokens; returns their hidden states [rows, T, width]."""
        width, before = tokens.shape[1], self.seen.shape[1]
        real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real
        self.seen = torch.cat([self.seen, real], dim=1)
        positions = (self.seen.cumsum(1) - 1).clamp(min=0)[:, before:]
        mask = model._causal(before, width) & self.seen[:, None, None, :]
        # A padding token attends to itself: a row of the mask that is all False would give NaN.
        own = torch.eye(width, before + width, dtype=torch.bool, device=tokens.device).roll(before, dims=1)
        hidden = model._run(tokens, self.cache, mask | own[None, None], positions)
        self.last = hidden[:, -1]
        return hidden

    def keep(self, slots: list[int]) -> None:
        if len(slots) < len(self.seen):
            index = torch.tensor(slots, device=self.seen.device)
            self.cache.batch_select_indices(index)
            self.seen, self.last = self.seen[index], self.last[index]

    def repeat(self, times: int) -> None:
        self.cache.batch_repeat_interleave(times)
        self.seen = self.seen.repeat_interleave(times, dim=0)


def _draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """One token from a row's logits [vocabulary], by the row's own generator."""
    if sampling.temperature == 0:
        return logits.argmax()
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        beyond = ordered.cumsum(0) - ordered >= sampling.top_p
        probabilities = torch.zeros_like(probabilities).scatter(0, order, ordered.masked_fill(beyond, 0.0))
    return torch.multinomial(probabilities, 1, generator=generator)[0]


def _transposed(name: str, array: np.ndarray) -> np.ndarray:
    """Between mlx-lm's layout of a low-rank factor and PEFT's, which is its transpose. Other tensors are alike."""
    return array.T if name.endswith((".lora_a", ".lora_b")) else array
