"""Adapter and base become one set of weights: computed in float32, cast once to the base's number format.

Adding in bfloat16 would round a good part of a small update away, so the sum is formed in float32 (NumPy, tensor by
tensor) whatever the base is stored in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from rir_convert.weights import Weights
from rir_mlx.backends.base import AdapterSpec
from rir_mlx.errors import ModelError

Floats32 = np.ndarray


def fused_tensors(
    base: Weights, spec: AdapterSpec, adapter: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Each weight of the base under its name, the adapter merged into it, in the base's number format.

    LoRA (arXiv:2106.09685): W + s·(A·B)ᵀ, with A (in, rank) and B (rank, out). DoRA (arXiv:2402.09353): that,
    each output row scaled to the length m. Full fine-tuning: the trained weight in place of the base's.
    Raises ModelError where a tensor of the adapter has no place in the base.
    """
    used = set()
    for name in base:
        weight = base[name]
        module = name.removesuffix(".weight")
        if spec.fine_tune_type == "full":
            if name not in adapter:
                raise ModelError(f"The trained weights lack {name}.")
            used.add(name)
            yield name, np.asarray(adapter[name]).astype(weight.dtype)
        elif f"{module}.lora_a" in adapter:
            parts = {leaf: f"{module}.{leaf}" for leaf in ("lora_a", "lora_b", "m") if f"{module}.{leaf}" in adapter}
            used.update(parts.values())
            merged = merge(np.asarray(weight, dtype=np.float32), spec, {k: adapter[v] for k, v in parts.items()})
            yield name, merged.astype(weight.dtype)
        else:
            yield name, np.asarray(weight)
    if left := sorted(set(adapter) - used):
        raise ModelError(f"The base has no place for {left[0]} of the adapter.")


def merge(weight: Floats32, spec: AdapterSpec, adapter: Mapping[str, np.ndarray]) -> Floats32:
    """One weight (out, in) in float32 with its update."""
    update = adapter["lora_a"].astype(np.float32) @ adapter["lora_b"].astype(np.float32)
    merged: Floats32 = weight + np.float32(spec.scale) * update.T
    if spec.fine_tune_type == "dora":
        length = np.linalg.norm(merged, axis=1)
        merged = merged * (adapter["m"].astype(np.float32) / length)[:, None]
    return merged
