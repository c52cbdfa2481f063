"""The specification of an adapter, and its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from rir_mlx.errors import ModelError, did_you_mean
from rir_mlx.types import Dtype, FineTuneType

Tensors = Mapping[str, np.ndarray]
"""Adapter tensors by name, in mlx-lm's layout: `model.layers.0.self_attn.q_proj.lora_a` is (in, rank)."""


@dataclass(frozen=True)
class AdapterSpec:
    """What is trained. `num_layers` counts from the last layer, 0 or -1 mean all. `keys` are module names inside a
    layer (`self_attn.q_proj`); empty means every linear layer. `scale` multiplies the low-rank update (mlx-lm's
    `scale`; PEFT's `lora_alpha / r`)."""

    fine_tune_type: FineTuneType = "lora"
    num_layers: int = -1
    rank: int = 16
    scale: float = 2.0
    dropout: float = 0.0
    keys: tuple[str, ...] = ()

    def base_dtype(self, wanted: Dtype) -> Dtype:
        """What the base is loaded in: weights that are all trained are float32, and so is what the model computes from
        its settings when it is loaded, such as Gemma's factor on the embedding."""
        return "float32" if self.fine_tune_type == "full" else wanted


LINEAR_KEYS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""The linear layers of a Llama block, in mlx-lm's names, which are transformers' names too."""


def no_linear_layer(key: str, known: Iterable[str]) -> ModelError:
    """The error for a key of `lora_parameters.keys` that names no linear module of a layer."""
    known = sorted(known)
    same_end = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = f" Did you mean {same_end[0]!r}?" if same_end else did_you_mean(key, known)
    return ModelError(
        f"The model's layers have no linear module {key!r}.{hint}",
        hint=f"Change lora_parameters.keys. A layer has {', '.join(known)}.",
    )


def adapted_layers(spec: AdapterSpec, layer_count: int) -> range:
    """Indices of the layers that `num_layers` counts from the end; 0 and -1 mean all."""
    chosen = spec.num_layers if spec.num_layers > 0 else layer_count
    return range(max(0, layer_count - chosen), layer_count)
