"""transformers as its users run it, and PEFT for an adapter: `AutoModelForCausalLM` and its own forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from rir_convert.verification.engines.base import CannotRun
from rir_mlx.backends.base import Float32Array, Tokens
from rir_mlx.backends.torch.threads import threads, threads_for
from rir_mlx.errors import ModelError

_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, ImportError, SafetensorError)
_UNKNOWN = ("does not recognize this architecture", "Unrecognized configuration class")
_NO_CODE = "transformers has no code for language models of this type"


class TransformersEngine:
    """A folder, and an adapter folder over it, in float32 and with the attention that transformers chooses itself.

    Raises CannotRun if transformers has no such models, ModelError if either folder cannot be read."""

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        transformers_logging.disable_progress_bar()
        try:
            self.model = _opened(folder)
        except ModelError as error:
            if adapter is None or isinstance(error, CannotRun):
                raise
            shown = error.what.replace(str(folder), folder.name)
            raise CannotRun(f"transformers cannot load the base model: {shown}") from error
        self.forward = f"AutoModelForCausalLM's own forward pass, transformers {transformers.__version__}"
        self._few = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        if adapter is not None:
            self.model = _adapted(self.model, adapter)
            self.forward = f"PeftModel's own forward pass, PEFT {peft.__version__}"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device).eval()
        self.threads = threads_for(self.model, self.device)

    @torch.inference_mode()
    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]:
        for row in rows:
            kept = min(last, len(row))
            only = {"logits_to_keep": kept} if self._few else {}
            logits = self._run(prefix + row, **only).logits[0, -kept:]
            yield np.asarray(logits.float().cpu().numpy())

    @torch.inference_mode()
    def layer_outputs(self, tokens: Tokens) -> list[Float32Array]:
        """Watched by PyTorch's own hooks: `output_hidden_states` leaves out what the last layer gives."""
        seen: list[torch.Tensor] = []

        def keep(_module: object, given: Any, named: Any, output: Any) -> None:
            if not seen:
                seen.append(given[0] if given else named["hidden_states"])
            seen.append(output[0] if isinstance(output, tuple) else output)

        hooks = [layer.register_forward_hook(keep, with_kwargs=True) for layer in self._layers()]
        try:
            self._run(tokens)
        finally:
            for hook in hooks:
                hook.remove()
        return [np.asarray(output[0].float().cpu().numpy()) for output in seen]

    def _run(self, tokens: Tokens, **how: Any) -> Any:
        with threads(self.threads):
            return self.model(input_ids=torch.tensor([tokens], device=self.device), use_cache=False, **how)

    def _layers(self) -> list[Any]:
        count = self.model.config.num_hidden_layers
        lists = (part for part in self.model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == count)
        return list(next(lists, ()))


def _opened(folder: Path) -> Any:
    """The folder's model in float32. Raises CannotRun or ModelError."""
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except _UNREADABLE as error:
        if any(words in str(error) for words in _UNKNOWN):
            raise CannotRun(_NO_CODE) from error
        raise ModelError(f"{folder} cannot be loaded by transformers: {error}") from error
    if missing := sorted(report["missing_keys"]):  # which transformers would fill with random numbers
        raise ModelError(f"{folder} cannot be loaded by transformers: it lacks the weight {missing[0]}.")
    return model


def _adapted(model: Any, adapter: Path) -> Any:
    """The model under an adapter. Raises ModelError."""
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
            stored = set(file.keys())
    except _UNREADABLE as error:
        raise ModelError(f"{adapter} cannot be loaded by PEFT: {error}") from error
    # PEFT warns of keys that the config names and the file lacks, and fills them with zeros.
    if odd := sorted(stored ^ set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))):
        raise ModelError(f"{adapter} does not hold what its config says: {odd[0]} is in one of them only.")
    return adapted
