"""Adapter folders that open unchanged in mlx-lm and in PEFT.

`adapters.safetensors` holds mlx-lm's names and layout, `adapter_model.safetensors` PEFT's, and one
`adapter_config.json` carries both sets of keys. Weights fine-tuned in full have only mlx-lm's file.
Tensors are NumPy arrays, so every backend and converter reads the same ones, whichever backend trained them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.errors import ModelError
from rir_mlx.json_text import parse_json
from rir_mlx.models.adapter_spec import LINEAR_KEYS, AdapterSpec, Tensors, adapted_layers
from rir_mlx.models.families import ModelShape
from rir_mlx.models.hub import ModelFiles
from rir_mlx.models.weight_files import save_tensors
from rir_mlx.storage.atomic import replacing
from rir_mlx.storage.digests import digest_of_file
from rir_mlx.storage.layout import Stage

MLX_WEIGHTS = "adapters.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """The content of an adapter folder. `about` is stored beside the weights: for a classifier, its task."""

    spec: AdapterSpec
    tensors: Tensors
    about: Mapping[str, Any]


_TO_PEFT = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}


def write_adapter(folder: Path, adapter: Adapter, base: ModelFiles) -> None:
    """Write the folder, whole or not at all."""
    spec = adapter.spec
    layer_count = ModelShape.of(base.config).layers
    layers = adapted_layers(spec, layer_count)
    keys = list(spec.keys) or _adapted_keys(adapter.tensors)
    config: dict[str, Any] = {
        "fine_tune_type": spec.fine_tune_type,
        "num_layers": len(layers),
        "lora_parameters": {"rank": spec.rank, "scale": spec.scale, "dropout": spec.dropout, "keys": keys},
        "base_model_name_or_path": base.name if base.revision else str(base.folder.resolve()),
        "revision": base.revision,
        "rir_mlx": {"base_fingerprint": base.fingerprint, "spec": asdict(spec), "about": dict(adapter.about)},
    }
    if spec.fine_tune_type != "full":
        config |= {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "inference_mode": True,
            "r": spec.rank,
            "lora_alpha": spec.scale * spec.rank,
            "lora_dropout": spec.dropout,
            "use_dora": spec.fine_tune_type == "dora",
            "target_modules": sorted({key.rpartition(".")[2] for key in keys}),
            "layers_to_transform": list(layers),
            "layers_pattern": "layers",
            "bias": "none",
            "fan_in_fan_out": False,
        }
    with replacing(folder) as temporary:
        temporary.mkdir()
        own = {name: np.ascontiguousarray(tensor) for name, tensor in adapter.tensors.items()}
        save_tensors(own, temporary / MLX_WEIGHTS, "mlx")
        if spec.fine_tune_type != "full":
            save_tensors(to_peft(adapter.tensors), temporary / PEFT_WEIGHTS, "pt")
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _adapted_keys(tensors: Tensors) -> list[str]:
    """The modules inside a layer that have adapter tensors, in the order of a Llama block, then others."""
    found = {match[1] for name in tensors if (match := re.search(r"\.layers\.\d+\.(.+)\.", name))}
    known = [key for key in LINEAR_KEYS if key in found]
    return known + sorted(found - set(known)) or list(LINEAR_KEYS)


def to_peft(tensors: Tensors) -> dict[str, np.ndarray]:
    """mlx-lm's tensors under PEFT's names. The low-rank factors are transposed: (in, rank) becomes (rank, in)."""
    renamed = {}
    for name, tensor in tensors.items():
        array = tensor if name.endswith(".m") else tensor.T
        renamed[peft_spelling(name)] = np.ascontiguousarray(array)
    return renamed


def peft_spelling(name: str) -> str:
    """PEFT's name of a tensor that mlx-lm calls `name`."""
    module, _, leaf = name.rpartition(".")
    return f"base_model.model.{module}.{_TO_PEFT[leaf]}"


def weights_digest(stage: Stage) -> str:
    """A short hash of the weights that a stage trained. Raises ModelError if they are missing."""
    try:
        return digest_of_file(stage.adapter / MLX_WEIGHTS)
    except OSError as error:
        raise ModelError(
            f"{stage.adapter / MLX_WEIGHTS} cannot be read: {error.strerror}.",
            hint=f"Restore it; or delete {stage.record} and run again, and it is trained again.",
        ) from error


def read_adapter(folder: Path, base: ModelFiles) -> Adapter:
    """The adapter in a folder, checked against its base model.

    Raises ModelError if a file is missing, cut or damaged, or the adapter was trained for another base."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    for name in (CONFIG, MLX_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"The adapter folder {folder} lacks {name}.", hint="Train again, or restore the file.")
    try:
        config = parse_json((folder / CONFIG).read_text(encoding="utf-8"))
        about = config["rir_mlx"]
        if unknown := set(about["spec"]) - {field.name for field in fields(AdapterSpec)}:
            raise ValueError(f"unknown key {min(unknown)!r} in its spec")
        given = {field.name: about["spec"][field.name] for field in fields(AdapterSpec)}
        spec = AdapterSpec(**(given | {"keys": tuple(given["keys"])}))
        beside, fingerprint, trained_for = about["about"], about["base_fingerprint"], config["base_model_name_or_path"]
    except KeyError as error:
        raise ModelError(
            f"{folder / CONFIG} lacks the key {error}.", hint="Train again, or restore the file."
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{folder / CONFIG} cannot be read: {error}", hint="Restore the file.") from error
    if fingerprint != base.fingerprint:
        raise ModelError(
            f"The adapter in {folder} was trained for {trained_for}, not for these weights of {base.name}.",
            hint="Name that base in the recipe's `model`, or train again.",
        )
    try:
        tensors = load_file(folder / MLX_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{folder / MLX_WEIGHTS} is damaged or cut: {error}", hint="Restore the file, or train again."
        ) from error
    if broken := [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]:
        raise ModelError(f"{folder / MLX_WEIGHTS}: {broken[0]} holds NaN or infinity.", hint="Train again.")
    return Adapter(spec, tensors, beside)
