"""The families that llama.cpp can compute from a file of ours: its names of their parts, and what it cannot express.

Source: llama.cpp's converter (conversion/) and graphs (src/models/). What a graph there fixes, a config may not say
otherwise: such a model is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rir_mlx.errors import ModelError
from rir_mlx.models.families import (
    SLIDING,
    full_attention_every,
    mlx_length_limit,
    rope_by_layer,
    rope_for_both,
    ties_head,
)

ELSEWHERE = "Export it with --to hf, and convert that folder with llama.cpp's convert_hf_to_gguf.py."
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMED = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_NEEDED = (
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "vocab_size",
)
_LARGEST_GEMMA = 62
"""Layers of Gemma 3 27B, for which llama.cpp scales attention by the width of a head as if it were hidden / heads."""


@dataclass(frozen=True)
class Architecture:
    """A family as llama.cpp knows it.

    name         `general.architecture` of the file
    title        for people
    block        transformers' modules of a layer and llama.cpp's names of them
    biased       those with a bias
    pairs        llama.cpp rotates neighbouring pairs of a head, where transformers rotates halves
    norm_offset  what transformers adds to the weights of a norm, and llama.cpp wants in the file
    misfit       what of a config llama.cpp's graph would compute otherwise; None if nothing
    needed       keys of a config besides those that all need
    half_gelu    on a processor llama.cpp looks the activation up in a table of float16: its answers in float32 are that
                 exact alone
    """

    name: str
    title: str
    block: Mapping[str, str]
    misfit: Callable[[Mapping[str, Any]], str | None]
    biased: tuple[str, ...] = ()
    pairs: bool = False
    norm_offset: float = 0.0
    half_gelu: bool = False
    needed: tuple[str, ...] = ()

    def tensors(self, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """transformers' and llama.cpp's name of each tensor."""
        for module, name in _OUTSIDE.items():
            if not (module == "lm_head" and ties_head(config)):
                yield f"{module}.weight", f"{name}.weight"
        for layer in range(config["num_hidden_layers"]):
            for module, name in self.block.items():
                yield f"model.layers.{layer}.{module}.weight", f"blk.{layer}.{name}.weight"
            for module in self.biased:
                yield f"model.layers.{layer}.{module}.bias", f"blk.{layer}.{self.block[module]}.bias"

    def stored(self, name: str, tensor: np.ndarray, config: Mapping[str, Any], *, back: bool = False) -> np.ndarray:
        """A tensor of transformers as llama.cpp wants it, or, with `back`, the reverse. `tensor` is float32."""
        if self.norm_offset and name.endswith("norm.weight"):
            return tensor - np.float32(self.norm_offset) if back else tensor + np.float32(self.norm_offset)
        if self.pairs and (heads := _heads(name, config)) is not None:
            return permute(tensor, heads, back=back)
        return tensor


def permute(weight: np.ndarray, heads: int, *, back: bool = False) -> np.ndarray:
    """Rows of a head from halves (transformers) to neighbouring pairs (llama.cpp), or back. `weight` is (out, in)."""
    size = weight.shape[0] // heads
    shape = (heads, size // 2, 2, -1) if back else (heads, 2, size // 2, -1)
    return weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape)


def _heads(name: str, config: Mapping[str, Any]) -> int | None:
    """The number of heads whose rows are permuted; None for other weights."""
    if name.endswith("q_proj.weight"):
        return int(config["num_attention_heads"])
    if name.endswith("k_proj.weight"):
        return int(config.get("num_key_value_heads") or config["num_attention_heads"])
    return None


def head_size(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope_scaling(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rotary scaling of a config, of its layers with full attention where layers differ; None without one."""
    scaling: dict[str, Any] | None = rope_for_both(config)["rope_scaling"]
    return scaling and scaling | {"rope_type": scaling.get("rope_type", scaling.get("type"))}


def rope_factors(config: Mapping[str, Any]) -> np.ndarray | None:
    """[head_dim / 2] what each rotary frequency is divided by (Llama 3.1's scaling); None for another scaling."""
    scaling = rope_scaling(config)
    if scaling is None or scaling["rope_type"] != "llama3":
        return None
    size, theta = head_size(config), float(rope_for_both(config)["rope_theta"])
    wavelengths = 2 * math.pi * theta ** (np.arange(0, size, 2, dtype=np.float64) / size)
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context = float(scaling["original_max_position_embeddings"])
    smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth), dtype=np.float32)


def _common_misfit(config: Mapping[str, Any], activation: tuple[str, str], scalings: tuple[str, ...]) -> str | None:
    key, wanted = activation
    if (found := config.get(key) or wanted) != wanted:
        return f"with {found}"
    if config.get("attention_bias") or config.get("mlp_bias"):
        return "with biases"
    scaling = rope_scaling(config)
    if scaling is not None and scaling["rope_type"] not in scalings:
        return f"with rotary scaling of the kind {scaling['rope_type']}"
    return None


def _llama_misfit(config: Mapping[str, Any]) -> str | None:
    return _common_misfit(config, ("hidden_act", "silu"), ("llama3",))


def _qwen_misfit(config: Mapping[str, Any]) -> str | None:
    if (window := mlx_length_limit(config)) is not None:  # neither library knows it
        return f"with an attention window (of {window:,} tokens here, which llama.cpp ignores)"
    return _common_misfit(config, ("hidden_act", "silu"), ())


def _gemma_misfit(config: Mapping[str, Any]) -> str | None:
    if config.get("attn_logit_softcapping") or config.get("final_logit_softcapping"):
        return "with soft-capped logits"
    if config.get("use_bidirectional_attention"):
        return "with attention in both directions"
    size, heads = head_size(config), int(config["num_attention_heads"])
    wanted = config["hidden_size"] / heads if config["num_hidden_layers"] == _LARGEST_GEMMA else size
    if (scalar := config.get("query_pre_attn_scalar", 256)) != wanted:
        return f"whose query_pre_attn_scalar is {scalar}, not {wanted:g} as llama.cpp takes it"
    if full_attention_every(config) is None:
        return "with layer types without a fixed pattern"
    by_layer = rope_by_layer(config)
    if by_layer and by_layer[SLIDING]["rope_type"] != "default":
        return "with rotary scaling in their sliding-window layers"
    return _common_misfit(config, ("hidden_activation", "gelu_pytorch_tanh"), ("linear",))


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_KNOWN = {
    "llama": Architecture("llama", "Llamas", _BLOCK, _llama_misfit, pairs=True),
    "qwen2": Architecture("qwen2", "Qwen2 models", _BLOCK, _qwen_misfit, biased=_QKV),
    "qwen3": Architecture("qwen3", "Qwen3 models", _BLOCK | _NORMED, _qwen_misfit),
    "gemma3_text": Architecture(
        "gemma3",
        "Gemma 3 models",
        _BLOCK | _NORMED | _GEMMA,
        _gemma_misfit,
        norm_offset=1.0,
        half_gelu=True,
        needed=("sliding_window",),
    ),
}


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """What llama.cpp calls a model with this config. Raises ModelError for a family that cannot be written here, or a
    model that llama.cpp would compute otherwise."""
    known = _KNOWN.get(config["model_type"])
    if known is None:
        families = "Llama, Qwen2, Qwen2.5, Qwen3 and Gemma 3"
        raise ModelError(
            f"GGUF files are written for {families} alone, and this model is of the type {config['model_type']}.",
            hint=ELSEWHERE,
        )
    if missing := [key for key in (*_NEEDED, *known.needed) if config.get(key) is None]:
        raise ModelError(f"The model's config has no {missing[0]}, which a GGUF file needs.", hint=ELSEWHERE)
    if odd := known.misfit(config):
        raise ModelError(f"{known.title} {odd} cannot be written here.", hint=ELSEWHERE)
    return known


def add_architecture(writer: Any, config: Mapping[str, Any]) -> None:
    """The sizes and settings that llama.cpp reads before the tensors."""
    rope, size = rope_for_both(config), head_size(config)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if config["model_type"] == "gemma3_text":
        _add_windows(writer, config, float(rope["rope_local_base_freq"]))


def _add_windows(writer: Any, config: Mapping[str, Any], local_base: float) -> None:
    """Gemma's sliding-window layers, and the scaling of its others."""
    every, arch = full_attention_every(config), writer.arch
    assert every is not None
    if every > 1:
        writer.add_sliding_window(int(config["sliding_window"]))
        writer.add_uint32(f"{arch}.attention.sliding_window_pattern", every)
        writer.add_float32(f"{arch}.rope.freq_base_swa", local_base)
    scaling = rope_scaling(config)
    if scaling is not None:
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(scaling["factor"]))
