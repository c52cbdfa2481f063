"""Tokenizers of SentencePiece's kind that put no space before a text (Gemma's), as llama.cpp's `llama` vocabulary.

llama.cpp knows no merges there. It joins the two neighbours whose union is the token with the highest score, whichever
two they are. So the merges must be as SentencePiece makes them: all pairs that give a token, token after token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rir_convert.gguf.architectures import ELSEWHERE
from rir_mlx.errors import ModelError

_SPACE = "▁"
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_BYTES = {f"<0x{byte:02X}>": byte for byte in range(256)}


def are_pieces(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json writes spaces as ▁ and does nothing else to a text."""
    return tokenizer.get("normalizer") == _SPACES


def check_pieces(tokenizer: Mapping[str, Any]) -> None:
    """Raises ModelError if llama.cpp would cut texts into other pieces."""
    model, splits = tokenizer["model"], tokenizer.get("pre_tokenizer")
    found = None
    if splits is not None and not (splits.get("type") == "Split" and splits.get("pattern") == {"String": " "}):
        found = "it splits texts before it looks for pieces"
    elif not model.get("byte_fallback") or model.get("ignore_merges") or not _BYTES.keys() <= model["vocab"].keys():
        found = "it does not spell unknown characters in bytes"
    elif odd := _not_by_score(tokenizer):
        found = f"its merges are not by score ({odd})"
    if found:
        raise ModelError(f"llama.cpp would cut texts into other pieces than this tokenizer: {found}.", hint=ELSEWHERE)


def _not_by_score(tokenizer: Mapping[str, Any]) -> str | None:
    """A pair of pieces that llama.cpp would join at another time than the tokenizer; None where there is none."""
    model = tokenizer["model"]
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    last, seen = "", set()
    for left, right in merges:
        joined = left + right
        if joined != last and joined in seen:
            return f"{joined!r} is made at two times"
        last = joined
        seen.add(joined)
    pairs, vocabulary = set(merges), model["vocab"].keys() - _BYTES.keys()
    for token in vocabulary | {added["content"] for added in tokenizer.get("added_tokens", ())}:
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair[0] in vocabulary and pair[1] in vocabulary and pair not in pairs:
                return f"{pair[0]!r} and {pair[1]!r} are not joined"
    return None


def piece_scores(tokens: Sequence[str], model: Mapping[str, Any]) -> list[float]:
    """The score of each token: the earlier its merges, the higher."""
    scores: dict[str, float] = {}
    for merge in model["merges"]:
        scores.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), -1.0 - len(scores))
    return [scores.get(token, 0.0) for token in tokens]


def piece_type(token: str, kind: Any, model: Mapping[str, Any]) -> Any:
    """llama.cpp's type of a token that is of this `kind` elsewhere. A run of spaces that the tokenizer also finds by
    itself is an ordinary piece: as one given by the user llama.cpp would write it as ▁."""
    from gguf import TokenType

    if token in _BYTES:
        return TokenType.BYTE
    if token == model.get("unk_token"):
        return TokenType.UNKNOWN
    if kind == TokenType.USER_DEFINED and not token.strip(_SPACE):
        return TokenType.NORMAL
    return kind
