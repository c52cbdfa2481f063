"""Merges adapter and base into one set of weights: computed in float32, cast once to the output's number format.

Adding in bfloat16 would round away much of a small update, so the sum is computed in float32 (NumPy, tensor by tensor)
for any base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from rir_convert.weights.tensors import Tensors
from rir_mlx.errors import ModelError
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.types import Dtype

Floats32 = np.ndarray
_LEAVES = ("lora_a", "lora_b", "m")
_ROWS = 2048
"""Rows of a weight that are merged at a time: all of an embedding in float32 is half of a small model."""
_NAMED: dict[Dtype, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


class Fused:
    """Each weight of the base by name, merged with the adapter on access.

    LoRA (arXiv:2106.09685): W + s·(A·B)ᵀ, with A (in, rank) and B (rank, out). DoRA (arXiv:2402.09353): that,
    each output row scaled to the length m. Full fine-tuning: the trained weight in place of the base's.
    `dtype` is the number format that comes out; `auto` is the base's own.
    Raises ModelError if a tensor of the adapter has no counterpart in the base, or another shape.
    """

    def __init__(
        self, base: Tensors, spec: AdapterSpec, adapter: Mapping[str, np.ndarray], *, dtype: Dtype = "auto"
    ) -> None:
        self.base, self.spec, self.adapter, self.dtype = base, spec, adapter, dtype
        self._check()

    def _check(self) -> None:
        used = set()
        for name in self.base:
            mine = [name] if self.spec.fine_tune_type == "full" else list(self._parts(name).values())
            if self.spec.fine_tune_type == "full" and name not in self.adapter:
                raise ModelError(f"The trained weights lack {name}.")
            used.update(mine)
            _, shape = self.base.form(name)
            if self.spec.fine_tune_type != "full" and mine:
                a, b = self.adapter[mine[0]].shape, self.adapter[mine[1]].shape
                if (b[-1], a[0]) != shape or a[1] != b[0]:
                    raise ModelError(f"{name} is {shape}, and its update is {a} · {b}, transposed.")
        if left := sorted(set(self.adapter) - used):
            raise ModelError(f"The base has no place for {left[0]} of the adapter.")

    def _parts(self, name: str) -> dict[str, str]:
        """The adapter's tensors for a weight, by their leaf."""
        module = name.removesuffix(".weight")
        found = {leaf: f"{module}.{leaf}" for leaf in _LEAVES if f"{module}.{leaf}" in self.adapter}
        wanted = _LEAVES if self.spec.fine_tune_type == "dora" else _LEAVES[:2]
        if found and set(found) != set(wanted):
            odd = min(set(found) ^ set(wanted))
            raise ModelError(f"The adapter of {module} is incomplete: {odd} is missing or unexpected.")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def form(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        own, shape = self.base.form(name)
        return (own if self.dtype == "auto" else np.dtype(_NAMED[self.dtype])), shape

    def __getitem__(self, name: str) -> np.ndarray:
        dtype, _ = self.form(name)
        if self.spec.fine_tune_type == "full":
            return np.asarray(self.adapter[name]).astype(dtype)
        weight, parts = self.base[name], self._parts(name)
        if not parts:
            return np.asarray(weight).astype(dtype, copy=False)
        tensors = {leaf: self.adapter[place] for leaf, place in parts.items()}
        merged = np.empty(weight.shape, dtype)
        for start in range(0, len(weight), _ROWS):
            rows = slice(start, start + _ROWS)
            some = {leaf: tensor[..., rows] if leaf != "lora_a" else tensor for leaf, tensor in tensors.items()}
            merged[rows] = merge(np.asarray(weight[rows], dtype=np.float32), self.spec, some).astype(dtype)
        return merged


def merge(weight: Floats32, spec: AdapterSpec, adapter: Mapping[str, np.ndarray]) -> Floats32:
    """One weight (out, in) in float32 with its update."""
    update = adapter["lora_a"].astype(np.float32) @ adapter["lora_b"].astype(np.float32)
    merged: Floats32 = weight + np.float32(spec.scale) * update.T
    if spec.fine_tune_type == "dora":
        length = np.linalg.norm(merged, axis=1)
        merged = merged * (adapter["m"].astype(np.float32) / length)[:, None]
    return merged
