"""The rotary angles that a config asks for, as transformers computes them, and how long a sequence may be with them.

Knows no framework. mlx-lm does not express every setting, and some of its models ignore what they do not know, so the
MLX backend compares what a layer rotates by with what stands here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rir_mlx.errors import ModelError
from rir_mlx.models.families import FULL, SLIDING, kind_of, layer_types, mlx_length_limit, rope_for_both

_PARTIAL = {"glm": 0.5, "glm4": 0.5, "glm4_moe": 0.5, "nemotron": 0.5, "persimmon": 0.5, "phi": 0.5, "stablelm": 0.25}
"""The share of a head that is rotated where the config does not say, as in transformers' classes."""


@dataclass(frozen=True)
class LengthLimit:
    """The longest sequence, in tokens, that is computed right; `why` says what it is longer than beyond."""

    tokens: int
    why: str
    hint: str

    def check(self, tokens: int) -> None:
        """Raises ModelError for a longer sequence."""
        if tokens > self.tokens:
            raise ModelError(f"A sequence of {tokens:,} tokens is longer than {self.why}.", hint=self.hint)


class LengthLimited:
    """A model that is computed right up to a `limit`; None if there is none."""

    limit: LengthLimit | None = None

    @property
    def longest(self) -> int | None:
        """The most tokens of a sequence that is computed right; None if there is no limit."""
        return None if self.limit is None else self.limit.tokens

    def check_length(self, tokens: int) -> None:
        """Raises ModelError for a sequence of `tokens` beyond the limit."""
        if self.limit is not None:
            self.limit.check(tokens)


def rotary_limit(config: Mapping[str, Any]) -> LengthLimit | None:
    """Beyond it, the angles of all tokens depend on the length of the whole sequence, so keys that were kept from a
    shorter one, or beside longer rows, are wrong ones."""
    limits = [
        _original(rope, config) if kind_of(rope) == "longrope" else int(config["max_position_embeddings"])
        for rope in _by_type(config).values()
        if kind_of(rope) in ("longrope", "dynamic")
    ]
    if not limits:
        return None
    why = f"the {min(limits):,} up to which this model's rotary angles do not change with the length"
    return LengthLimit(min(limits), why, _shorter(min(limits)))


def mlx_limit(config: Mapping[str, Any]) -> LengthLimit | None:
    """Up to which length mlx-lm computes right: the lower one of the limits by windows and by angles."""
    limits, window = [rotary_limit(config)], mlx_length_limit(config)
    if window is not None:
        why = f"this model's attention window of {window:,}, which mlx-lm ignores"
        limits.append(LengthLimit(window, why, f"Set max_seq_length to at most {window}, or use --backend torch."))
    return min(filter(None, limits), key=lambda limit: limit.tokens, default=None)


def learned_limit(config: Mapping[str, Any]) -> LengthLimit | None:
    """Of a config with all of its class's keys: a model without rotary angles ends at the positions that it knows."""
    places = config.get("max_position_embeddings", config.get("n_positions"))
    if "rope_parameters" in config or not isinstance(places, int):
        return None
    return LengthLimit(places, f"the {places:,} positions that this model has", _shorter(places))


def _shorter(tokens: int) -> str:
    return f"Set max_seq_length to at most {tokens}, or choose another model."


@dataclass(frozen=True)
class Angles:
    """Of a layer: the angle by which each pair of numbers of a head turns from one token to the next, the factor of the
    turned numbers, and the width of a head, the rest of which is left as it is."""

    frequencies: NDArray[np.float64]
    factor: float
    width: int

    def cosines(self, position: int) -> NDArray[np.float64]:
        """[width] factor · cos of each number's angle, in ascending order: models differ in how they pair numbers."""
        turned = np.repeat(self.factor * np.cos(position * self.frequencies), 2)
        return np.sort(np.concatenate([turned, np.ones(self.width - len(turned))]))


def angles_of_layers(config: Mapping[str, Any]) -> list[Angles]:
    """Of every layer, for sequences within `rotary_limit`. Raises ModelError for settings that are not known."""
    by_type = {kind: _angles(config, rope) for kind, rope in _by_type(config).items()}
    if len(by_type) == 1:
        return list(by_type.values()) * int(config["num_hidden_layers"])
    return [by_type[kind] for kind in layer_types(config)]


def _by_type(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of all layers, or those of each type of layer."""
    rope = rope_for_both(config)["rope_parameters"]
    if isinstance(rope.get(FULL), dict):
        return {FULL: rope[FULL], SLIDING: rope[SLIDING]}
    return {FULL: rope}


def _original(rope: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """The longest sequence before the angles were scaled. Phi-3 names it beside the settings, and that counts."""
    name = "original_max_position_embeddings"
    return int(config.get(name) or rope.get(name) or config["max_position_embeddings"])


def _angles(config: Mapping[str, Any], rope: Mapping[str, Any]) -> Angles:
    width = int(
        config.get("qk_rope_head_dim")
        or config.get("head_dim")
        or config["hidden_size"] // config["num_attention_heads"]
    )
    share = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor")
    turned = config.get("rotary_dim") or int(width * (share or _PARTIAL.get(str(config.get("model_type")), 1.0)))
    theta = float(rope["rope_theta"])
    if alpha := rope.get("alpha"):  # HunYuan's
        theta *= float(alpha) ** (turned / (turned - 2))
    base = theta ** (np.arange(0, turned, 2) / turned)
    match kind_of(rope):
        case "default" | "mrope" | "dynamic":
            return Angles(1 / base, 1.0, width)
        case "linear":
            return Angles(1 / base / float(rope["factor"]), 1.0, width)
        case "llama3":
            return Angles(_llama3(1 / base, rope, _original(rope, config)), 1.0, width)
        case "yarn":
            return Angles(_yarn(base, rope, _original(rope, config)), _yarn_factor(config, rope), width)
        case "longrope":
            short = np.asarray(rope["short_factor"], dtype=np.float64)
            return Angles(1 / (short * base), _longrope_factor(config, rope), width)
        case kind:
            raise ModelError(f"Rotary settings of the type {kind!r} are not known.", hint="Use --backend torch.")


def _llama3(frequencies: NDArray[np.float64], rope: Mapping[str, Any], original: int) -> NDArray[np.float64]:
    factor, low, high = (float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = original * frequencies / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - smooth) * frequencies / factor + smooth * frequencies


def _yarn(base: NDArray[np.float64], rope: Mapping[str, Any], original: int) -> NDArray[np.float64]:
    """arXiv:2309.00071: slow angles are divided, fast ones are kept, those between are mixed."""
    width, theta = 2 * len(base), math.log(float(rope["rope_theta"]))
    fast, slow = rope.get("beta_fast") or 32, rope.get("beta_slow") or 1
    ends: Sequence[float] = [width * math.log(original / (turns * 2 * math.pi)) / (2 * theta) for turns in (fast, slow)]
    if rope.get("truncate", True):
        ends = math.floor(ends[0]), math.ceil(ends[1])
    low, high = max(ends[0], 0), min(ends[1], width - 1)
    divided = np.clip((np.arange(len(base)) - low) / (high - low or 0.001), 0, 1)
    mixed: NDArray[np.float64] = divided / (float(rope["factor"]) * base) + (1 - divided) / base
    return mixed


def _yarn_factor(config: Mapping[str, Any], rope: Mapping[str, Any]) -> float:
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor = float(rope.get("factor") or config["max_position_embeddings"] / _original(rope, config))

    def scale(share: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * share * math.log(factor) + 1

    over, under = rope.get("mscale"), rope.get("mscale_all_dim")
    return scale(over) / scale(under) if over and under else scale(1)


def _longrope_factor(config: Mapping[str, Any], rope: Mapping[str, Any]) -> float:
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    original = _original(rope, config)
    factor = float(rope.get("factor") or config["max_position_embeddings"] / original)
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
