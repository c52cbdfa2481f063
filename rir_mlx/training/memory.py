"""Memory that a stage takes, estimated from the shapes of a model and of its rows, and from the sizes of its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rir_mlx.backends.base import Batch, Device, Model, Request, Sampling
from rir_mlx.models.adapter_spec import LINEAR_KEYS, AdapterSpec, adapted_layers
from rir_mlx.models.families import ModelShape
from rir_mlx.models.weight_files import weight_files

FRAMEWORK = 400 * 2**20
"""Bytes that the libraries take: measured 0.41 GB with PyTorch, transformers and scikit-learn imported."""
_TOKENIZER = 19
"""Bytes of memory for a byte of tokenizer.json, in the two tokenizers that a codec holds: the highest measured of files
with indentation, as they are published. 0.63 GB for the 33 MB of Gemma 3's 262,144 tokens and 514,906 merges; 14 bytes
for a byte with made-up byte-level tokenizers of 32,000 and 128,256 tokens and as many merges (37 and 157 MB). A file
without indentation is half as large, and takes twice as much for a byte (28)."""
_DRAWN = 8
"""Numbers of four bytes for a token that may be drawn: its logit, its part of the noise, and the sums of a draw.
Measured."""


@dataclass(frozen=True)
class Stored:
    """Bytes of a model's files, as far as they lie in the machine's memory: the tokenizer's as long as it is used, the
    weights' while they are read into numbers of another format. None of them does on a device with its own memory."""

    tokenizer: int = 0
    weights: int = 0

    @classmethod
    def of(cls, folder: Path, device: Device) -> Stored:
        if not device.shares_memory:
            return cls()
        tokenizer = folder / "tokenizer.json"
        size = tokenizer.stat().st_size if tokenizer.is_file() else 0
        return cls(size, sum(path.stat().st_size for path in weight_files(folder)))

    @property
    def beside(self) -> int:
        """Bytes of memory beside the weights, before any work."""
        return FRAMEWORK + _TOKENIZER * self.tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model, the `config` of its folder, and the sizes of its files."""

    model: Model
    config: dict[str, Any]
    stored: Stored = Stored()


@dataclass(frozen=True)
class Trained:
    """The model to train, the `config` of its folder, the adapter, the number of processes, and the sizes of the
    folder's files."""

    model: Model
    spec: AdapterSpec
    config: dict[str, Any]
    processes: int = 1
    stored: Stored = Stored()


def training_memory(what: Trained, batch: Batch, checkpointed: bool = False) -> int:
    """Bytes that a step on a batch takes: the weights; gradient, weight and two moments of each trained number;
    activations; one part of the logits; and what lies beside the weights. Loading may take more for a moment.

    Per layer, a token keeps some 20 values of the hidden width and 4 of the MLP width, as measured with both
    frameworks. DoRA keeps about twice that, checkpointing only the layer's input, plus two layers being computed.
    """
    model, spec, config = what.model, what.spec, what.config
    shape = ModelShape.of(config)
    hidden, layers, middle = shape.hidden, shape.layers, shape.middle
    width = _width(model)
    kind = spec.fine_tune_type
    trained = model.parameters if kind == "full" else _adapter_size(spec, shape)
    layer = (20 * hidden + 4 * middle) * width * {"lora": 1.0, "full": 1.0, "dora": 2.0}[kind]
    each = layers * 1.5 * hidden * width + 2 * layer if checkpointed else layers * layer
    logits = min(model.head_rows, int((batch.weights > 0).sum())) * shape.vocabulary * 12
    step = int(trained * 16 + batch.processed * each + logits)
    return model.weight_bytes + what.stored.beside + max(step, what.stored.weights)


def _adapter_size(spec: AdapterSpec, shape: ModelShape) -> int:
    """Numbers in a low-rank adapter."""
    sizes = shape.linear_sizes()
    each = sum(sizes.get(key.rpartition(".")[2], 2 * shape.hidden) for key in spec.keys or LINEAR_KEYS)
    return len(adapted_layers(spec, shape.layers)) * spec.rank * each


def generation_memory(loaded: Loaded, batch: Sequence[Request], prefix: int, sampling: Sampling) -> int:
    """Bytes: the weights; for each row, keys and values for the longest row's tokens, and one row of logits, with the
    noise and the sums of a draw where tokens are drawn; and what lies beside the weights. Loading may take more for a
    moment."""
    model, shape = loaded.model, ModelShape.of(loaded.config)
    longest = max(len(request.tokens) for request in batch) + prefix + sampling.max_tokens
    each = shape.layers * shape.key_value_heads * shape.head_width * 2 * _width(model)
    numbers = _DRAWN if sampling.temperature > 0 else 1
    work = len(batch) * (longest * each + shape.vocabulary * 4 * numbers)
    return model.weight_bytes + loaded.stored.beside + max(work, loaded.stored.weights)


def _width(model: Model) -> int:
    """Bytes of a number that the model computes with."""
    return 4 if model.weight_bytes >= 4 * model.parameters else 2
