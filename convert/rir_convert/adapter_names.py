"""The names of an adapter's tensors, in the spellings that are in use, and the one that they are given here.

PEFT writes `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`, mlx-lm
`model.layers.0.self_attn.q_proj.lora_a`. Files differ in what stands before `layers`, and some carry the name that the
adapter had while it was trained (`lora_A.default.weight`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rir_mlx.errors import ModelError

_LEAVES = {"lora_A": "lora_a", "lora_B": "lora_b", "lora_magnitude_vector": "m"}
_PEFT = re.compile(
    r"(?P<module>.+?)\.(?P<leaf>lora_A|lora_B|lora_magnitude_vector)(?:\.(?!weight$)(?P<adapter>[^.]+))?(?:\.weight)?"
)
_LAYER = re.compile(r"(?:(?:base_model|model|language_model)\.)*layers\.(\d+)\.(.+)")
_NESTED = ".base_layer"
"""What PEFT puts between, where two parameters of one module are trained: the second adapter wraps the first."""
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|lm_head|wte|wpe)\.")
_MERGE = "Merge it with PEFT's merge_and_unload() and use the merged model."


@dataclass(frozen=True)
class TensorName:
    """A stored name, read.

    module   as stored, without PEFT's own prefix: what PEFT's patterns are matched with
    place    the module under the name that transformers and mlx-lm give it: `model.layers.0.self_attn.q_proj`
    leaf     `lora_a`, `lora_b` or `m`
    adapter  the adapter's name, where the file gives one
    """

    module: str
    place: str
    leaf: str
    adapter: str | None = None

    @property
    def name(self) -> str:
        return f"{self.place}.{self.leaf}"


def peft_name(stored: str) -> TensorName:
    """Raises ModelError for what is no low-rank factor, or stands outside the layers."""
    match = _PEFT.fullmatch(stored)
    if match is None or _EMBEDDING.search(f"{match['module']}.") or match["module"].endswith(_NESTED):
        raise _unknown(stored)
    module = match["module"].removeprefix("base_model.model.")
    return TensorName(module, _place(stored, module), _LEAVES[match["leaf"]], match["adapter"])


def mlx_name(stored: str) -> TensorName:
    """Raises ModelError for what is no low-rank factor, or stands outside the layers."""
    module, _, leaf = stored.rpartition(".")
    if leaf not in _LEAVES.values() or _EMBEDDING.search(f"{module}."):
        raise _unknown(stored)
    return TensorName(module, _place(stored, module), leaf)


def _place(stored: str, module: str) -> str:
    match = _LAYER.fullmatch(module)
    if match is None:
        raise ModelError(
            f"The adapter trains {stored}, outside the layers of a language model as they are named here.", hint=_MERGE
        )
    return f"model.layers.{match[1]}.{match[2]}"


def split_place(name: str) -> tuple[int, str]:
    """`model.layers.1.self_attn.q_proj.lora_a` as 1 and `self_attn.q_proj.lora_a`."""
    _, _, layer, rest = name.split(".", 3)
    return int(layer), rest


def _unknown(stored: str) -> ModelError:
    if _EMBEDDING.search(f"{stored}."):
        return ModelError(
            f"The adapter holds {stored}, outside the layers: the embedding or the head.",
            hint=f"If neither was trained, save it again with save_embedding_layers=False. Otherwise: {_MERGE}",
        )
    return ModelError(f"The adapter holds {stored}, which is no part of a low-rank adapter.", hint=_MERGE)
