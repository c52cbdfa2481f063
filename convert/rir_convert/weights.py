"""Safetensors as NumPy arrays, tensor by tensor, bfloat16 included."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from rir_mlx.errors import ModelError

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}


class Weights:
    """The tensors of a model folder, one file or several, mapped and not read until asked for.

    Format: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON header, the tensors)."""

    def __init__(self, folder: Path) -> None:
        self.places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            start, header = _read_header(path)
            for name, entry in header.items():
                if name != "__metadata__":
                    self.places[name] = (path, start, entry)
        if not self.places:
            raise ModelError(f"{folder} holds no .safetensors weights.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __getitem__(self, name: str) -> np.ndarray:
        path, start, entry = self.places[name]
        if entry["dtype"] not in _DTYPES:
            raise ModelError(
                f"{name} in {path} is stored as {entry['dtype']}: a quantised model cannot be fused without loss.",
                mend="Train on the model's bfloat16 version to export it.",
            )
        begin, _ = entry["data_offsets"]
        return np.memmap(path, _DTYPES[entry["dtype"]], "r", start + begin, tuple(entry["shape"]))


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged or cut: {error}") from error
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) > path.stat().st_size:
        raise ModelError(f"{path} is cut: it ends before its last tensor.")
    return 8 + length, header


def save_weights(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Write tensors with the `format` metadata without which transformers refuses a file."""
    from safetensors.numpy import save_file

    # safetensors writes an array's memory as it lies: one in Fortran order would be stored transposed in silence.
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path, {"format": "pt"})
