"""Fine-tuning a small encoder (BERT and its like) as a classifier: a baseline. Token ids in, probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from rir_mlx.backends.base import (
    EncoderOptions,
    EncoderRows,
    Tokens,
    pad_right,
)
from rir_mlx.backends.torch.model import UNLOADABLE, default_device, fast_dtype
from rir_mlx.backends.torch.training import out_of_memory
from rir_mlx.errors import Failure, ModelError, OutOfMemory
from rir_mlx.models.weight_files import only_its_weights
from rir_mlx.progress import Progress

_ANOTHER = "Name another encoder, such as a BERT, or leave it out: --set evaluate.encoder=null (or embedding_model)"
_WARM_UP = 0.1
_POOL = 50
"""Number of batches drawn at a time and sorted by length."""


def encoder_probabilities(
    folder: Path, rows: EncoderRows, texts: Sequence[Tokens], options: EncoderOptions, progress: Progress
) -> NDArray[np.float64]:
    """[texts, labels] probabilities of the encoder in `folder`, all of whose weights are trained on `rows.train`:
    AdamW, a tenth of the steps to warm up, a linear decay, and the weights of the epoch with the best accuracy on
    `rows.validation` (without such rows, the last).

    The seed determines the new head, the order of the rows and dropout; on a processor the result is the same each
    time, on a GPU up to the order in which its kernels add. Raises ModelError if the folder holds no encoder in
    safetensors, OutOfMemory, and Failure if the training diverges."""
    device = default_device()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        model = _load(folder, rows.labels).to(device)
        try:
            _fine_tune(model, rows, options, progress)
            return _probabilities(model, texts, options.batch_size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemory(
                f"{options.batch_size} rows at a time do not fit into the memory of {device}.",
                hint=_ANOTHER,
            ) from error


def load_encoder(folder: Path, kind: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A model of a class of transformers in float32, and what of it was not in the folder. It is read from the folder's
    own safetensors, and no code of the folder is run. Raises ModelError if it cannot be."""
    transformers_logging.disable_progress_bar()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a long note that the head is new
    try:
        with only_its_weights(folder) as shown:
            model, report = kind.from_pretrained(
                shown,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except UNLOADABLE as error:
        raise ModelError(f"{folder} cannot be loaded as an encoder: {error}", hint=_ANOTHER) from error
    finally:
        transformers_logging.set_verbosity(before)
    return model, report


def refuse_missing(folder: Path, missing: Iterable[str]) -> None:
    """Raise ModelError if weights would be random."""
    if found := sorted(missing):
        raise ModelError(f"{folder} cannot be loaded as an encoder: it lacks the weight {found[0]}.", hint=_ANOTHER)


def _load(folder: Path, labels: int) -> Any:
    """The encoder with a head for `labels` labels. Raises ModelError if more than the head would be random."""
    heads = {"num_labels": labels, "ignore_mismatched_sizes": True}  # the head of another task
    model, report = load_encoder(folder, AutoModelForSequenceClassification, **heads)
    missing = set(report["missing_keys"]) | {key[0] for key in report["mismatched_keys"]}
    body = f"{model.base_model_prefix}."
    refuse_missing(folder, (key for key in missing if key.startswith(body) and "pooler" not in key))
    return model


def _fine_tune(model: Any, rows: EncoderRows, options: EncoderOptions, progress: Progress) -> None:
    rng = np.random.default_rng(options.seed)
    lengths = [len(tokens) for tokens, _ in rows.train]
    steps = options.epochs * -(-len(rows.train) // options.batch_size)
    warm_up = max(1, round(_WARM_UP * steps))
    optimizer = _optimizer(model)
    best, kept, step = -1.0, None, 0
    with progress.task("encoder", steps) as task:
        for _ in range(options.epochs):
            model.train()
            for batch in _batches(lengths, options.batch_size, rng):
                step += 1
                pace = min(step / warm_up, (steps - step + 1) / max(1, steps - warm_up))
                for group in optimizer.param_groups:
                    group["lr"] = options.learning_rate * pace
                truth = torch.tensor([rows.train[row][1] for row in batch], device=model.device)
                logits = _logits(model, [rows.train[row][0] for row in batch])
                loss = torch.nn.functional.cross_entropy(logits, truth)
                if not np.isfinite(value := loss.item()):
                    raise Failure("The encoder's training diverged: its loss is not finite.", hint=_ANOTHER)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                task.advance(1, loss=value)
            if rows.validation and (accuracy := _accuracy(model, rows.validation, options.batch_size)) > best:
                best, kept = accuracy, {key: value.cpu().clone() for key, value in model.state_dict().items()}
    if kept is not None:
        model.load_state_dict(kept)


def _optimizer(model: Any) -> torch.optim.AdamW:
    """Weight decay for matrices; none for biases and norms, which are vectors."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [weight for weight in parameters if weight.ndim > 1], "weight_decay": 0.01},
            {"params": [weight for weight in parameters if weight.ndim <= 1], "weight_decay": 0.0},
        ]
    )


def _batches(lengths: Sequence[int], size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Every row once in random order, rows of similar length together."""
    order = rng.permutation(len(lengths))
    for start in range(0, len(order), size * _POOL):
        pool = sorted(order[start : start + size * _POOL].tolist(), key=lambda row: lengths[row])
        batches = [pool[place : place + size] for place in range(0, len(pool), size)]
        for index in rng.permutation(len(batches)):
            yield batches[index]


def _logits(model: Any, rows: Sequence[Tokens]) -> torch.Tensor:
    """[rows, labels] in float32."""
    tokens, lengths = pad_right(rows, model.config.pad_token_id or 0)
    mask = np.arange(tokens.shape[1]) < lengths[:, None]
    dtype = fast_dtype(model.device)
    with nullcontext() if dtype == torch.float32 else torch.autocast(model.device.type, dtype):
        logits: torch.Tensor = model(
            input_ids=torch.as_tensor(tokens, dtype=torch.long, device=model.device),
            attention_mask=torch.as_tensor(mask, dtype=torch.long, device=model.device),
        ).logits
    return logits.float()


def _accuracy(model: Any, rows: Sequence[tuple[Tokens, int]], batch_size: int) -> float:
    predicted = _probabilities(model, [tokens for tokens, _ in rows], batch_size).argmax(axis=1)
    return float(np.mean(predicted == [label for _, label in rows]))


@torch.inference_mode()
def _probabilities(model: Any, texts: Sequence[Tokens], batch_size: int) -> NDArray[np.float64]:
    model.eval()
    result = np.zeros((len(texts), model.config.num_labels))
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        logits = _logits(model, [texts[row] for row in batch])
        result[batch] = torch.softmax(logits.double(), dim=-1).cpu().numpy()
    return result
