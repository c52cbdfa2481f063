"""Adapters that change something, and folders that they are fused into, made without a framework."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from rir_convert.weights.hf_folder import FolderMetadata, write_hf_folder
from rir_convert.weights.merging import Fused
from rir_convert.weights.tensors import Tensors, Weights, base_weights, save_weights
from safetensors.numpy import load_file

from rir_mlx.backends.base import Tokens
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.adapter_spec import Tensors as AdapterTensors
from rir_mlx.models.hub import ModelFiles
from rir_mlx.types import Dtype

TYPES = ["lora", "dora", "full"]
ABOUT = FolderMetadata([1, 5, 6], ["joy", "anger"], "26 Jul 2024", {"rir_mlx": {"arm": "qra"}})
SEQUENCES: list[Tokens] = [
    tuple(np.random.default_rng(seed).integers(8, 300, length).tolist()) for seed, length in enumerate((100, 3, 40))
]
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def spec_of(fine_tune_type: str, num_layers: int = -1) -> AdapterSpec:
    return AdapterSpec(fine_tune_type, num_layers=num_layers, rank=4, scale=3.0)  # type: ignore[arg-type]


def adapter_for(folder: Path, spec: AdapterSpec, size: float = 0.1, seed: int = 0) -> dict[str, np.ndarray]:
    """DoRA's lengths are those of the base's rows, changed by a tenth."""
    rng = np.random.default_rng(seed)
    base = {name: np.asarray(Weights(folder)[name], dtype=np.float32) for name in Weights(folder)}
    if spec.fine_tune_type == "full":
        return {name: (w + rng.normal(0, size, w.shape)).astype(np.float32) for name, w in base.items()}
    tensors = {}
    first = 2 - spec.num_layers if spec.num_layers > 0 else 0
    for name, weight in base.items():
        if "_proj" not in name or int(name.split(".")[2]) < first:
            continue
        module, (rows, columns) = name.removesuffix(".weight"), weight.shape
        tensors[f"{module}.lora_a"] = rng.normal(0, size, (columns, spec.rank)).astype(np.float32)
        tensors[f"{module}.lora_b"] = rng.normal(0, size, (spec.rank, rows)).astype(np.float32)
        if spec.fine_tune_type == "dora":
            length = np.linalg.norm(weight, axis=1) * rng.uniform(0.9, 1.1, rows)
            tensors[f"{module}.m"] = length.astype(np.float32)
    return tensors


def fused(base: Tensors, spec: AdapterSpec, adapter: AdapterTensors, dtype: Dtype = "auto") -> dict[str, np.ndarray]:
    """All fused weights at once."""
    whole = Fused(base, spec, adapter, dtype=dtype)
    return {name: whole[name] for name in whole}


def write(
    folder: Path,
    base: ModelFiles,
    adapter: tuple[AdapterSpec, AdapterTensors],
    about: FolderMetadata = ABOUT,
    *,
    dtype: Dtype = "auto",
    **how: Any,
) -> Path:
    """The fused folder."""
    weights = Fused(base_weights(base.folder, base.config), *adapter, dtype=dtype)
    write_hf_folder(folder, weights, base, about, **how)
    return folder


def in_dtype(folder: Path, target: Path, dtype: type) -> Path:
    shutil.copytree(folder, target)
    tensors = {name: tensor.astype(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_weights(tensors, target / "model.safetensors")
    return target


def read(folder: Path, name: str) -> dict[str, object]:
    values: dict[str, object] = json.loads((folder / name).read_text(encoding="utf-8"))
    return values
