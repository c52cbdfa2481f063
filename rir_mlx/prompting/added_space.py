"""Tokenizers that put a space before every text, as SentencePiece's do (Llama 2, Mistral, Phi-3).

A prompt is tokenised in parts. Each part would get such a space: `▁ ▁joy` where the whole has `▁joy`. So parts are
tokenised without it, and it is put where the tokenizer puts it into the whole: at the start, and, for some, after each
control token.
"""

from __future__ import annotations

import json
from typing import Any

_STEPS = ("normalizer", "pre_tokenizer", "decoder")
_PARTS = ("normalizers", "pretokenizers", "decoders")


def steps_without_space(tokenizer: Any) -> dict[str, Any] | None:
    """The steps of a `tokenizers.Tokenizer` before and after its model, in the form of tokenizer.json, changed so that
    they neither add a space before a text nor take one away. None where they do neither."""
    given = {name: _as_json(getattr(tokenizer, name)) for name in _STEPS}
    changed = {name: _without_space(step) for name, step in given.items()}
    adds = any(given[name] != changed[name] for name in ("normalizer", "pre_tokenizer"))
    return changed if adds else None


def with_steps(tokenizer: Any, steps: dict[str, Any]) -> Any:
    """A copy of a tokenizer with other steps."""
    return type(tokenizer).from_str(json.dumps(json.loads(tokenizer.to_str()) | steps))


def _as_json(step: Any) -> Any:
    return None if step is None else json.loads(step.__getstate__())


def _without_space(step: Any) -> Any:
    """A step, or a sequence of them, without what adds or strips a space; None where nothing is left."""
    if step is None:
        return None
    for parts in _PARTS:
        if step["type"] == "Sequence" and parts in step:
            return step | {parts: [kept for part in step[parts] if (kept := _without_space(part)) is not None]}
    match step["type"]:
        case "Prepend":
            return None
        case "Metaspace":
            return step | {"prepend_scheme": "never"}
        case "ByteLevel":
            return step | {"add_prefix_space": False}
        case "Strip" if "strip_left" in step:  # the normalizer
            return step | {"strip_left": False, "strip_right": False}
        case "Strip":  # the decoder
            return step | {"start": 0}
    return step
