"""The differences between model families: attention windows, rotary settings, logits, and modules to adapt.

Everything here is read from a folder's config. Knows no framework: a backend builds masks and logits from these facts,
and its check at load compares the result with the model's own forward pass, so a wrongly described family is refused.

    family                         windows              logits                  linear layers
    Llama 2, Llama 3, SmolLM2      none                 plain                   the usual seven
    SmolLM3                        none; some layers have no rotary positions   the usual seven
    Qwen2, Qwen2.5, Qwen3          some layers, if on   plain                   the usual seven
    Gemma 2                        every other layer    soft-capped             the usual seven
    Gemma 3 (text)                 five layers of six   plain                   the usual seven
    Mistral, Phi-3                 all layers, if set   plain                   Phi-3: fused projections
    Granite, Cohere                none                 scaled                  the usual seven
    OLMo 2, OLMo 3                 OLMo 3: three of four  plain                 the usual seven
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rir_mlx.errors import ModelError

FULL, SLIDING = "full_attention", "sliding_attention"

VERIFIED = {
    "llama": "Llama 2 and 3, SmolLM2",
    "smollm3": "SmolLM3",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 (text)",
    "mistral": "Mistral",
    "phi3": "Phi-3",
    "granite": "Granite",
    "cohere": "Cohere",
    "olmo2": "OLMo 2",
    "olmo3": "OLMo 3",
}
"""Model types that the tests compare with plain transformers on both backends: logits, losses, gradients, scores and
greedy texts of tiny random models."""
_WINDOWS_IN_MLX = {"gemma3_text", "olmo3"}
"""Model types whose windows mlx-lm applies. It computes full attention for all others."""
_ROPE_BY_LAYER_IN_MLX = {"gemma3_text", "olmo3"}
_FULL_EVERY = {"gemma3_text": 6, "olmo3": 4}
"""One layer of so many has full attention where the config does not list them."""
_TIED_BY_DEFAULT = {"cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "gpt2", "smollm3"}
"""Model types whose head is the embedding where the config does not say, as in transformers' classes."""


@dataclass(frozen=True)
class Attention:
    """The layers limited to a window of `size` tokens. `layer_types` is None if all layers are alike and the library
    takes one mask; otherwise it takes a mask for each type."""

    window: int | None
    layer_types: tuple[str, ...] | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Attention:
        """Raises ModelError if a layer has an unknown kind of attention."""
        types = config.get("layer_types")
        window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
        if types and (unknown := sorted(set(types) - {FULL, SLIDING})):
            raise ModelError(
                f"Models of the type {config.get('model_type')} are not supported: their layers use {unknown[0]}.",
                hint="Choose a model whose layers all use full or sliding-window attention.",
            )
        if types and SLIDING not in types:
            window = None
        return cls(None if window is None else int(window), tuple(types) if types else None)


@dataclass(frozen=True)
class LogitTransform:
    """Changes to the logits after the projection: a factor, then `softcap · tanh(logits / softcap)`."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> LogitTransform:
        """Granite divides by `logits_scaling`, Cohere multiplies by `logit_scale`, Gemma 2 caps at
        `final_logit_softcapping`."""
        scale = float(config.get("logit_scale") or 1.0) / float(config.get("logits_scaling") or 1.0)
        softcap = config.get("final_logit_softcapping")
        return cls(scale, None if softcap is None else float(softcap))


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder, which determine its cost. `middle` is the width inside an MLP."""

    hidden: int
    layers: int
    middle: int
    heads: int
    key_value_heads: int
    head_width: int
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape:
        """Raises ModelError if the config lacks one of them, as configs of image models do."""

        def size(name: str, older: str) -> int:
            if (value := config.get(name, config.get(older))) is None:
                raise ModelError(
                    f"Models of the type {config.get('model_type')} are not supported: the config has no {name}.",
                    hint="Choose a text-only model.",
                )
            if not isinstance(value, int):
                raise ModelError(
                    f"Models of the type {config.get('model_type')} are not supported: {name} is {value!r:.40}, not a "
                    "number for all layers.",
                    hint="Choose a model of another family.",
                )
            return value

        hidden, heads = size("hidden_size", "n_embd"), size("num_attention_heads", "n_head")
        own_middle = config.get("intermediate_size", config.get("n_inner"))
        return cls(
            hidden=hidden,
            layers=size("num_hidden_layers", "n_layer"),
            middle=size("intermediate_size", "n_inner") if own_middle else 4 * hidden,
            heads=heads,
            key_value_heads=int(config.get("num_key_value_heads") or heads),
            head_width=int(config.get("head_dim") or hidden // heads),
            vocabulary=size("vocab_size", "vocab_size"),
        )

    def linear_sizes(self) -> dict[str, int]:
        """The sum of inputs and outputs of each linear module, also fused ones, by the last part of its name."""
        queries, keys = self.heads * self.head_width, self.key_value_heads * self.head_width
        hidden, middle = self.hidden, self.middle
        return {
            "q_proj": hidden + queries,
            "k_proj": hidden + keys,
            "v_proj": hidden + keys,
            "o_proj": queries + hidden,
            "qkv_proj": hidden + queries + 2 * keys,
            "gate_proj": hidden + middle,
            "up_proj": hidden + middle,
            "gate_up_proj": hidden + 2 * middle,
            "down_proj": middle + hidden,
        }


def ties_head(config: Mapping[str, Any]) -> bool:
    """Whether the embedding is the head, too. Configs of the hub leave out what is their class's default."""
    tied = config.get("tie_word_embeddings")
    return config.get("model_type") in _TIED_BY_DEFAULT if tied is None else bool(tied)


def mlx_length_limit(config: Mapping[str, Any]) -> int | None:
    """The longest sequence for which mlx-lm matches transformers: beyond it, a window matters that mlx-lm ignores.
    None if there is no limit."""
    if config.get("model_type") in _WINDOWS_IN_MLX:
        return None
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if config.get("model_type") in ("qwen2", "qwen3") and not config.get("use_sliding_window", False):
        window = None
    types = config.get("layer_types")
    return None if window is None or (types and SLIDING not in types) else int(window)


def mlx_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys to change so that mlx-lm computes the same angles and windows as transformers.

    Raises ModelError if mlx-lm cannot express the config."""
    kind, changed = config.get("model_type"), rope_for_both(config) | of_short_sequences(config)
    by_layer = rope_by_layer(config)
    if by_layer is not None:
        full, sliding = by_layer[FULL], by_layer[SLIDING]
        if kind not in _ROPE_BY_LAYER_IN_MLX:
            raise _inexpressible(kind, "rotary settings that differ by layer")
        if not _is_default(sliding) or (kind == "olmo3" and full["rope_theta"] != sliding["rope_theta"]):
            raise _inexpressible(kind, "these rotary settings of sliding-window layers")
    if kind in _WINDOWS_IN_MLX:
        types = layer_types(config)
        if FULL not in types:
            raise _inexpressible(kind, f"models whose {len(types)} layers all have sliding-window attention")
        if kind == "olmo3" and SLIDING not in types:
            raise _inexpressible(kind, f"models whose {len(types)} layers all have full attention")
    if kind == "gemma3_text":
        if (pattern := full_attention_every(config)) is None:
            raise _inexpressible(kind, "layer types without a fixed pattern")
        changed["sliding_window_pattern"] = pattern
    return changed


def of_short_sequences(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary keys of settings that change with a sequence's length, as they are for short ones: mlx-lm takes them
    as they are for long ones, or changes them from call to call."""
    rope = rope_for_both(config)["rope_scaling"] or {}
    kind = kind_of(rope)
    if kind == "dynamic" and "alpha" not in rope:  # HunYuan's is none of these
        return {"rope_scaling": None}
    if kind != "longrope":
        return {}
    original = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    named = {} if original is None else {"original_max_position_embeddings": original}
    return {"rope_scaling": rope | {"type": kind, "long_factor": rope["short_factor"]} | named, **named}


def full_attention_every(config: Mapping[str, Any]) -> int | None:
    """Of a Gemma 3 or OLMo 3: one layer of so many has full attention, the last of them; a number beyond the layers
    where none has. None for layer types without a fixed pattern."""
    types = layer_types(config)
    pattern = types.index(FULL) + 1 if FULL in types else len(types) + 1
    return pattern if types == _by_pattern(pattern, len(types)) else None


def layer_types(config: Mapping[str, Any]) -> list[str]:
    """The kind of each layer: as listed, or by the pattern with which hub folders of Gemma 3 describe it."""
    if listed := config.get("layer_types"):
        return list(listed)
    pattern = config.get("sliding_window_pattern") or _FULL_EVERY[config["model_type"]]
    return _by_pattern(int(pattern), int(config["num_hidden_layers"]))


def _by_pattern(pattern: int, layers: int) -> list[str]:
    return [SLIDING if (index + 1) % pattern else FULL for index in range(layers)]


def _inexpressible(kind: Any, what: str) -> ModelError:
    return ModelError(f"mlx-lm cannot run this {kind} model: it does not know {what}.", hint="Use --backend torch.")


def rope_by_layer(config: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """Rotary settings by layer type, in transformers' form: `{full_attention: {rope_theta, rope_type, …}, …}`. None if
    all layers share one."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or not isinstance(rope.get(FULL), dict):
        return None
    full = {"rope_type": "default"} | rope[FULL]
    return {FULL: full, SLIDING: {"rope_type": "default", "rope_theta": full["rope_theta"]} | (rope.get(SLIDING) or {})}


def rope_for_both(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary keys of a config in both of the forms that libraries read.

    transformers 5 writes `rope_parameters` alone, for Gemma 3 and OLMo 3 by layer type. mlx-lm, older vLLM and
    llama.cpp read `rope_theta`, `rope_scaling` and, for Gemma 3's sliding layers, `rope_local_base_freq`; without them
    they silently compute other angles."""
    rope = config.get("rope_parameters")
    by_layer = rope_by_layer(config)
    if by_layer is not None:
        full = by_layer[FULL]
        scaling = {key: value for key, value in full.items() if key != "rope_theta"}
        return {
            "rope_theta": full["rope_theta"],
            "rope_local_base_freq": by_layer[SLIDING]["rope_theta"],
            "rope_scaling": None if _is_default(full) else scaling,
            "rope_parameters": by_layer,
        }
    if isinstance(rope, dict):
        theta = config.get("rope_theta", rope.get("rope_theta", 10000.0))
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    else:
        theta, scaling = config.get("rope_theta", _default_theta(config)), dict(config.get("rope_scaling") or {})
    if (kind := config.get("model_type")) in ("gemma3_text", "olmo3"):  # their sliding layers are not scaled
        own = config.get("rope_local_base_freq", 10000.0) if kind == "gemma3_text" else theta
        local = {"rope_type": "default", "rope_theta": own}
        full = _with_type(scaling) | {"rope_theta": theta}
        return {
            "rope_theta": theta,
            "rope_local_base_freq": local["rope_theta"],
            "rope_scaling": None if _is_default(scaling) else scaling,
            "rope_parameters": {FULL: full, SLIDING: local},
        }
    share = config.get("partial_rotary_factor", scaling.get("partial_rotary_factor"))
    return {
        "rope_theta": theta,
        "rope_scaling": None if _is_default(scaling) else scaling,
        "rope_parameters": _with_type(scaling) | {"rope_theta": theta},
        **({} if share is None else {"partial_rotary_factor": share}),
    }


def kind_of(rope: Mapping[str, Any]) -> str:
    """The kind of rotary settings by its newer name: `default`, `linear`, `longrope`, …"""
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    return {"su": "longrope", "deepseek_yarn": "yarn"}.get(kind, kind)


def _with_type(scaling: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with their kind under its newer name; older folders call it `type`."""
    return {"rope_type": scaling.get("type", "default"), **scaling}


def _default_theta(config: Mapping[str, Any]) -> float:
    return 1_000_000.0 if config.get("model_type") == "gemma3_text" else 10000.0


def _is_default(scaling: Mapping[str, Any]) -> bool:
    return kind_of(scaling) == "default"
