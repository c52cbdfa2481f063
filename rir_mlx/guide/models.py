"""Base models that are on this machine, or would be fetched: their size, the memory that training takes, their licence.

Reads configs and file sizes; no weights and no framework.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from rir_mlx.backends.base import Batch, Model
from rir_mlx.backends.limits.logits import head_rows
from rir_mlx.errors import RirError
from rir_mlx.guide.machine import bytes_of_a_weight
from rir_mlx.hub_access import cached_folders
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.config import read_config
from rir_mlx.models.families import VERIFIED, ModelShape, mlx_length_limit
from rir_mlx.models.weight_files import weight_files
from rir_mlx.recipe.builtin import BUILTIN, EMBEDDED
from rir_mlx.recipe.schema import LoraParameters, TrainingSection
from rir_mlx.training.cost import fits_into
from rir_mlx.training.memory import Stored, Trained, training_memory
from rir_mlx.types import OPEN_MIRROR, FineTuneType

EMBEDDED_MODEL = f"{BUILTIN}tiny-llama"
MIRROR_CONFIG = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128_256,
}
"""Llama-3.2-1B's shape, for a machine that has not fetched it yet."""
_MIRROR_BYTES = 2_471_645_608
_PREFIX, _ROW, _LEARNED = 120, 160, 64
"""A usual batch: tokens that all rows share, tokens of a row's text and answer, and those that are learned."""
_LARGEST_TRAINED_WHOLE = 20_000_000
_OWN_LICENCE = "apache-2.0"
_LICENCE = re.compile(r"^license(?:_name)?:\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class BaseModel:
    """A base model. `size` is that of its weight files in bytes, `memory` what training a LoRA adapter takes with the
    default batches (None if its config does not say), `fits` whether that fits into this machine. `verified` says what
    the tests hold of its family; `limit` is the longest text that MLX computes as PyTorch does, if there is one.
    `weights` is how many it has; 0, like `size`, if nothing is known of it."""

    name: str
    family: str
    size: int
    memory: int | None
    fits: bool
    verified: str
    licence: str | None
    limit: int | None = None
    here: bool = True
    weights: int = 0


def models_here(memory: int) -> list[BaseModel]:
    """The embedded model and those in the hub's cache that have all their weights, by size. `memory` is the
    machine's."""
    found = [_read(EMBEDDED_MODEL, EMBEDDED / "tiny-llama", memory)]
    for name, folder in cached_folders("model"):
        with suppress(RirError, OSError, ValueError):  # no model of text, or a broken folder
            found.append(_read(name, folder, memory))
    return sorted(found, key=lambda model: model.size)


def default_model(memory: int, here: Sequence[BaseModel]) -> BaseModel:
    """The default model: as it is among those `here`, or as it would be fetched."""
    found = next((model for model in here if model.name == OPEN_MIRROR), None)
    if found is not None:
        return found
    taken = training_bytes(MIRROR_CONFIG, _MIRROR_BYTES)
    fits, weights = fits_into(taken, memory), _weights(MIRROR_CONFIG, _MIRROR_BYTES)
    return BaseModel(
        OPEN_MIRROR, "llama", _MIRROR_BYTES, taken, fits, VERIFIED["llama"], None, here=False, weights=weights
    )


def named_model(name: str, memory: int) -> BaseModel:
    """The model that the user names: what a folder on this machine shows, else a name of which nothing is known."""
    if Path(name).is_dir():
        with suppress(RirError, OSError, ValueError):
            return _read(name, Path(name), memory)
    return BaseModel(name, "", 0, None, fits=False, verified="", licence=None, here=False)


def _read(name: str, folder: Path, memory: int) -> BaseModel:
    config = read_config(folder)
    family = str(config.get("model_type"))
    size = sum(path.stat().st_size for path in weight_files(folder))
    tokenizer = folder / "tokenizer.json"
    taken: int | None = None
    with suppress(RirError):
        taken = training_bytes(config, size, tokenizer.stat().st_size if tokenizer.is_file() else 0)
    return BaseModel(
        name,
        family,
        size,
        taken,
        taken is not None and fits_into(taken, memory),
        VERIFIED.get(family, "") if _is_plain(config) else "",
        _OWN_LICENCE if name == EMBEDDED_MODEL else _licence(folder),
        mlx_length_limit(config),
        weights=_weights(config, size),
    )


def _weights(config: Mapping[str, Any], stored: int) -> int:
    """How many weights files of `stored` bytes hold; of quantised ones a little too many, for their scales count."""
    wide = str(config.get("dtype") or config.get("torch_dtype")) == "float32"
    packed = config.get("quantization") or config.get("quantization_config") or {}
    return 8 * stored // int(packed.get("bits") or (32 if wide else 16))


def _is_plain(config: dict[str, Any]) -> bool:
    """Whether a config is that of a model that writes texts, in weights that every backend loads: no classifier or
    encoder, and nothing that was quantised, which depends on the backend."""
    named = config.get("architectures") or [""]
    writes = not named[0] or str(named[0]).endswith(("ForCausalLM", "LMHeadModel"))
    return writes and not (config.get("quantization") or config.get("quantization_config"))


def training_bytes(config: dict[str, Any], stored: int, tokenizer: int = 0) -> int:
    """Bytes that training takes with the default settings and rows of usual length, by the estimate that every
    training prints: a LoRA adapter, or all weights of a tiny model. `stored` are the bytes of the weight files,
    `tokenizer` those of tokenizer.json.

    Raises ModelError if the config lacks a size."""
    width = 4 if str(config.get("dtype") or config.get("torch_dtype")) == "float32" else 2
    parameters = stored // width
    kind: FineTuneType = "full" if parameters < _LARGEST_TRAINED_WHOLE else "lora"
    held = stored if "quantization" in config else parameters * (4 if kind == "full" else bytes_of_a_weight())
    spec = AdapterSpec(kind, -1, LoraParameters().rank)
    rows = TrainingSection().batch_size
    weights = np.zeros((rows, _ROW), dtype=np.float32)
    weights[:, -_LEARNED:] = 1
    tokens = np.zeros((rows, _ROW), dtype=np.int32)
    batch = Batch(tuple(range(_PREFIX)), tokens, np.full(rows, _ROW, dtype=np.int32), weights)
    what = Trained(
        cast(Model, _Sizes(parameters, held, head_rows(ModelShape.of(config).vocabulary))),
        spec,
        config,
        stored=Stored(tokenizer, stored),
    )
    return training_memory(what, batch)


@dataclass(frozen=True)
class _Sizes:
    """As much of a model as its memory depends on."""

    parameters: int
    weight_bytes: int
    head_rows: int


def _licence(folder: Path) -> str | None:
    """The licence that the model card names. `license_name` says which one `other` is."""
    with suppress(OSError, UnicodeDecodeError):
        text = (folder / "README.md").read_text(encoding="utf-8")
        if text.startswith("---"):
            named = _LICENCE.findall(text.split("\n---", 1)[0])
            return next((name.strip("'\"") for name in named if name != "other"), named[0] if named else None)
    return None


def fitting(models: Sequence[BaseModel]) -> Iterator[BaseModel]:
    """Those that fit and whose family is verified, the largest first."""
    return (model for model in reversed(models) if model.fits and model.verified)
