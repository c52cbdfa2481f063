"""Models of a given shape with random weights, and the memory of a process."""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from rir_mlx.recipe.builtin import EMBEDDED


def make_shape(folder: Path, hidden: int, layers: int, vocabulary: int, seed: int = 0) -> None:
    """A Llama folder with random bfloat16 weights and the embedded tokenizer; 2048 wide it is Llama-3.2-1B's layer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((EMBEDDED / "tiny-llama" / name).read_bytes())
    config = json.loads((EMBEDDED / "tiny-llama" / "config.json").read_text(encoding="utf-8"))
    heads, middle = max(1, hidden // 64), 4 * hidden
    keys = 64 * max(1, heads // 4)
    config |= {"hidden_size": hidden, "intermediate_size": middle, "num_hidden_layers": layers, "head_dim": 64}
    config |= {"num_attention_heads": heads, "num_key_value_heads": keys // 64, "vocab_size": vocabulary}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape, dtype=np.float32) * 0.02).astype(ml_dtypes.bfloat16)

    shapes = {"self_attn.q_proj": (64 * heads, hidden), "self_attn.k_proj": (keys, hidden)}
    shapes |= {"self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, 64 * heads)}
    shapes |= {"mlp.gate_proj": (middle, hidden), "mlp.up_proj": (middle, hidden), "mlp.down_proj": (hidden, middle)}
    unit = np.ones(hidden, dtype=ml_dtypes.bfloat16)
    weights = {"model.embed_tokens.weight": draw(vocabulary, hidden), "model.norm.weight": unit}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        weights |= {f"{at}{name}.weight": draw(*shape) for name, shape in shapes.items()}
        weights |= {f"{at}input_layernorm.weight": unit, f"{at}post_attention_layernorm.weight": unit}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def peak_gb() -> float:
    """Peak resident memory of this process in GB (2³⁰ bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def watch_memory(place: str) -> Callable[[], float]:
    """Call it once the weights are loaded; the result tells the peak above them since then, in GB."""
    gc.collect()
    if place == "mlx":
        import mlx.core as mx

        mx.reset_peak_memory()
        held = mx.get_active_memory()
        return lambda: (mx.get_peak_memory() - held) / 2**30
    if place == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return lambda: (torch.cuda.max_memory_allocated() - held) / 2**30

    def peak() -> float:
        if not Path("/proc/self/status").is_file():
            return peak_gb()
        return int(Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 2**20

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets the peak back to what is resident now
    resident = peak()
    return lambda: peak() - resident
