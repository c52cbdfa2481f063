"""A folder's weights: read into memory, or quantised in groups of few bits and stored as mlx-lm stores them."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

from rir_mlx.errors import ModelError
from rir_mlx.types import QUANTIZATION_GROUP


def read_weights(model: Any) -> None:
    """Read and convert the weights of a lazily loaded model one by one, the largest first: so what is read and what is
    kept of it are in memory together only while there is still room."""
    for _, weight in sorted(tree_flatten(model.parameters()), key=lambda pair: -int(pair[1].nbytes)):
        mx.eval(weight)
    mx.clear_cache()


def quantise(source: Path, target: Path, bits: int) -> None:
    """Write the weights and the config of `source`, quantised to `bits`, into the existing folder `target`. Its other
    files are left as they are.

    Raises ModelError if no layer is wide enough for the groups."""
    model, config = load_model(source, lazy=True)
    if config["hidden_size"] % QUANTIZATION_GROUP:
        raise ModelError(
            f"Layers of width {config['hidden_size']} cannot be quantised in groups of {QUANTIZATION_GROUP}."
        )
    with contextlib.redirect_stdout(io.StringIO()):  # mlx-lm prints the bits per weight there
        model, config = quantize_model(model, config, QUANTIZATION_GROUP, bits)
    for old in target.glob("model*.safetensors*"):
        old.unlink()
    save_model(target, model, donate_model=True)
    save_config(config, target / "config.json")
