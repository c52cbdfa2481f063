"""A tokenizer.json as the vocabulary of a GGUF file: byte-level BPE, or pieces as SentencePiece has them.

llama.cpp splits texts by code of its own, which the file only names: a tokenizer that it would split otherwise is
refused. One thing it does not do at all is Unicode's composition (NFC), which Qwen's tokenizers ask for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rir_convert.gguf.architectures import ELSEWHERE
from rir_convert.gguf.pieces import are_pieces, check_pieces, piece_scores, piece_type
from rir_mlx.errors import ModelError
from rir_mlx.json_text import parse_json
from rir_mlx.prompting.templates import default_template

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRE_TOKENIZERS = {_LLAMA3: "llama-bpe", _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"): "qwen2"}
"""llama.cpp's names of pre-tokenizers; a wrong one would silently split words elsewhere."""
_COMPOSED = "qwen2"
"""The pre-tokenizer whose own tokenizers compose characters first, here as in every GGUF file of these families."""


def read_vocabulary(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The content of a tokenizer.json. Raises ModelError if it cannot be written, or does not fit the model."""
    try:
        whole: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint=ELSEWHERE) from error
    model = whole["model"]
    if model.get("type") != "BPE":
        raise ModelError(f"Tokenizers of the type {model.get('type')} cannot be written here.", hint=ELSEWHERE)
    if are_pieces(whole):
        check_pieces(whole)
    else:
        pre_tokenizer(whole)
    unwritten = {added["id"] for added in whole.get("added_tokens", ()) if added["special"]}
    highest = max(set(model["vocab"].values()) - unwritten, default=0)
    highest = max([highest, *(added["id"] for added in whole.get("added_tokens", ()) if not added["special"])])
    if highest >= config["vocab_size"]:
        raise ModelError(f"The tokenizer has a token {highest}, and the model {config['vocab_size']} words.")
    return whole


def add_vocabulary(writer: Any, source: Path, config: dict[str, Any]) -> None:
    """The tokens of tokenizer.json, padded to the model's vocabulary. A control token without a row in the embedding,
    as Gemma 3's for images, is left out."""
    from gguf import TokenType
    from transformers import AutoTokenizer

    whole = read_vocabulary(source / "tokenizer.json", config)
    model, rows = whole["model"], config["vocab_size"]
    tokens = [f"[PAD{number}]" for number in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    added = {entry["content"]: entry for entry in whole.get("added_tokens", ())}
    ids = model["vocab"] | {content: entry["id"] for content, entry in added.items()}
    for token, number in ids.items():
        if number >= rows:
            continue
        kind = TokenType.NORMAL
        if token in added:
            kind = TokenType.CONTROL if added[token]["special"] else TokenType.USER_DEFINED
        tokens[number] = token
        types[number] = int(piece_type(token, kind, model) if are_pieces(whole) else kind)
    if are_pieces(whole):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(piece_scores(tokens, model))
        writer.add_add_space_prefix(False)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer(whole))
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    _add_special(writer, tokenizer, config, ids.get(model.get("unk_token")))
    if template := default_template(tokenizer.chat_template):
        writer.add_chat_template(template)


def _add_special(writer: Any, tokenizer: Any, config: dict[str, Any], unknown: int | None) -> None:
    """The tokens with a part to play. What ends a message is one of them, where it is not the end of a text."""
    ends = config.get("rir_mlx", {}).get("terminator")
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_eot_token_id, None if ends == tokenizer.eos_token_id else ends),
        (writer.add_unk_token_id, unknown),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None and number < config["vocab_size"]:
            add(number)
    writer.add_add_bos_token(adds_bos(tokenizer))


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself adds the first token."""
    return tokenizer.bos_token_id is not None and tokenizer.bos_token_id in tokenizer("")["input_ids"]


def pre_tokenizer(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for the way a tokenizer.json splits words. Raises ModelError unless it is exactly a known one:
    it would silently be split elsewhere."""
    given, model = tokenizer.get("pre_tokenizer") or {}, tokenizer["model"]
    parts = given.get("pretokenizers", [given]) if given.get("type") == "Sequence" else [given]
    last, normalizer = parts[-1], tokenizer.get("normalizer")
    level = last.get("type") == "ByteLevel" and not last.get("add_prefix_space")
    if level and normalizer is None and len(parts) == 1 and last.get("use_regex", True):
        return "gpt-2"
    split = parts[0]
    exact = split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert")
    name = _PRE_TOKENIZERS.get(split.get("pattern", {}).get("Regex", "")) if exact else None
    composed = name == _COMPOSED and normalizer == {"type": "NFC"}
    if not level or not (normalizer is None or composed) or len(parts) != 2 or last.get("use_regex", True) or not name:
        raise ModelError("rir-mlx knows no llama.cpp name for the way this tokenizer splits words.", hint=ELSEWHERE)
    if name == "llama-bpe" and not model.get("ignore_merges"):
        return "smaug-bpe"  # the same words; llama-bpe takes one that is in the vocabulary whole, past the merges
    return name
