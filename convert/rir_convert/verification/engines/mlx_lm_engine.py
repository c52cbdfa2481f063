"""mlx-lm as its users run it: its own loading, of an adapter too, and its own `model(tokens)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model

from rir_convert.verification.engines.base import CannotRun
from rir_mlx.backends.base import Float32Array, Tokens
from rir_mlx.backends.mlx.forward import watched_layers
from rir_mlx.backends.mlx.weights import read_weights
from rir_mlx.errors import ModelError

_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError)


class MlxLmEngine:
    """A folder, and an adapter folder over it, in float32 where the weights are not quantised.

    Raises CannotRun if mlx-lm has no such models, ModelError if either folder cannot be read."""

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        self.forward = f"mlx-lm's own model(tokens), mlx-lm {mlx_lm.__version__}"
        try:
            model, config = load_model(folder, lazy=True)
            if "quantization" not in config:
                model.set_dtype(mx.float32)
            if adapter is None:
                read_weights(model)
        except _UNREADABLE as error:
            if str(error).endswith(" not supported."):
                raise CannotRun("mlx-lm has no code for models of this type") from error
            if adapter is not None:
                shown = str(error).replace(str(folder), folder.name)
                raise CannotRun(f"mlx-lm cannot load the base model: {shown}") from error
            raise ModelError(f"{folder} cannot be loaded by mlx-lm: {error}") from error
        self.model = model if adapter is None else _adapted(model, adapter)
        self.model.eval()

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]:
        for row in rows:
            logits = self.model(mx.array([prefix + row]))[0, -min(last, len(row)) :]
            yield np.array(logits.astype(mx.float32))

    def layer_outputs(self, tokens: Tokens) -> list[Float32Array]:
        """In a pass of its own: mlx-lm shows no layer, so each is watched for as long as this takes."""
        inner = getattr(self.model, "model", None)
        if inner is None or not hasattr(inner, "layers"):
            return []
        return watched_layers(inner, lambda: self.model(mx.array([tokens])))


def _adapted(model: Any, adapter: Path) -> Any:
    """The model under an adapter. Raises ModelError."""
    try:
        model = load_adapters(model, str(adapter))
        read_weights(model)
    except _UNREADABLE as error:
        raise ModelError(f"{adapter} cannot be loaded by mlx-lm: {error}") from error
    return model
