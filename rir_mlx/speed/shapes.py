"""The model that is measured: the recipe's where it is on this machine, else random weights of its shape."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from rir_mlx.errors import ModelError, UserError
from rir_mlx.guide.machine import free_disk, physical_memory
from rir_mlx.guide.models import MIRROR_CONFIG
from rir_mlx.hub_access import hub_answers
from rir_mlx.models.config import read_config
from rir_mlx.models.families import ModelShape
from rir_mlx.models.hub import resolve_model
from rir_mlx.recipe.builtin import EMBEDDED
from rir_mlx.types import OPEN_MIRROR

_SAME_SHAPE = (OPEN_MIRROR, "meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B")


def model_folder(name: str, empty: Path, *, offline: bool = False) -> tuple[Path, bool]:
    """The folder of a recipe's model where it is on this machine; else `empty`, filled with random weights of its shape
    and the embedded tokenizer. Also whether the weights are random. Weights are never fetched, a config may be.

    Raises ModelError if its shape cannot be known."""
    try:
        return resolve_model(name, offline=True).folder, False
    except ModelError as error:
        config = _known_config(name, offline=offline)
        if config is None:
            raise ModelError(
                f"{name} is not on this machine, and its shape is not known.",
                hint=f"Fetch it once: hf download {name}\nOr measure another: --set model={OPEN_MIRROR}",
            ) from error
    shape = ModelShape.of(config)
    needed, free, memory = 2 * _weights(shape), free_disk(empty), physical_memory()
    if needed > memory:
        raise UserError(
            f"Random weights of {name} take {needed / 1e9:.1f} GB, and here are {memory / 1e9:.1f} GB of memory.",
            hint="Measure a smaller model: --set model=builtin:tiny-llama",
        )
    if needed > free:
        raise UserError(
            f"Random weights of {name} take {needed / 1e9:.1f} GB, and {empty.parent} has {free / 1e9:.1f} GB free.",
            hint="Set TMPDIR to a folder with more room, or measure a smaller model: --set model=builtin:tiny-llama",
        )
    write_random(empty, shape)
    return empty, True


def _weights(shape: ModelShape) -> int:
    attention = 2 * shape.hidden * shape.head_width * (shape.heads + shape.key_value_heads)
    return shape.vocabulary * shape.hidden + shape.layers * (attention + 3 * shape.hidden * shape.middle)


def _known_config(name: str, *, offline: bool) -> dict[str, Any] | None:
    if name in _SAME_SHAPE:
        return MIRROR_CONFIG
    if offline or name.count("/") != 1 or name.startswith((".", "/", "~")) or not hub_answers():
        return None
    from huggingface_hub import errors, hf_hub_download

    with suppress(errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.HFValidationError, OSError):
        return read_config(Path(hf_hub_download(name, "config.json")).parent)
    return None


def make_shape(folder: Path, hidden: int, layers: int, vocabulary: int, seed: int = 0) -> None:
    """A Llama folder with random bfloat16 weights and the embedded tokenizer; 2048 wide it is Llama-3.2-1B's layer."""
    heads = max(1, hidden // 64)
    write_random(folder, ModelShape(hidden, layers, 4 * hidden, heads, max(1, heads // 4), 64, vocabulary), seed)


def write_random(folder: Path, shape: ModelShape, seed: int = 0) -> None:
    """A Llama folder of that shape with random bfloat16 weights and the embedded tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((EMBEDDED / "tiny-llama" / name).read_bytes())
    config = json.loads((EMBEDDED / "tiny-llama" / "config.json").read_text(encoding="utf-8"))
    hidden, middle = shape.hidden, shape.middle
    config |= {"hidden_size": hidden, "intermediate_size": middle, "num_hidden_layers": shape.layers}
    config |= {"num_attention_heads": shape.heads, "num_key_value_heads": shape.key_value_heads}
    config |= {"head_dim": shape.head_width, "vocab_size": shape.vocabulary}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    rng = np.random.default_rng(seed)
    queries, keys = shape.heads * shape.head_width, shape.key_value_heads * shape.head_width
    shapes = {"self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden)}
    shapes |= {"self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, queries)}
    shapes |= {"mlp.gate_proj": (middle, hidden), "mlp.up_proj": (middle, hidden), "mlp.down_proj": (hidden, middle)}
    unit = np.ones(hidden, dtype=ml_dtypes.bfloat16)
    weights = {"model.embed_tokens.weight": _drawn(rng, shape.vocabulary, hidden), "model.norm.weight": unit}
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        weights |= {f"{at}{name}.weight": _drawn(rng, *sizes) for name, sizes in shapes.items()}
        weights |= {f"{at}input_layernorm.weight": unit, f"{at}post_attention_layernorm.weight": unit}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _drawn(rng: np.random.Generator, rows: int, columns: int) -> NDArray[Any]:
    """Numbers between 1/64 and 1/32 with either sign, whose bits are drawn: a billion in seconds."""
    bits = np.frombuffer(rng.bytes(2 * rows * columns), dtype=np.uint16).reshape(rows, columns)
    return ((bits & 0x807F) | 0x3C80).view(ml_dtypes.bfloat16)
