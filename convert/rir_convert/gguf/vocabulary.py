"""A byte-level BPE tokenizer as the vocabulary of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rir_mlx.errors import ModelError
from rir_mlx.json_text import parse_json
from rir_mlx.prompting.templates import default_template

ELSEWHERE = "Export it with --to hf, and convert that folder with llama.cpp's convert_hf_to_gguf.py."
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRE_TOKENIZERS = {_LLAMA3: "llama-bpe", _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"): "qwen2"}
"""llama.cpp's names of pre-tokenizers; a wrong one would silently split words elsewhere."""


def read_vocabulary(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The content of a tokenizer.json. Raises ModelError if it cannot be written, or does not fit the model."""
    try:
        whole: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint=ELSEWHERE) from error
    model = whole["model"]
    if model.get("type") != "BPE":
        raise ModelError(f"Tokenizers of the type {model.get('type')} cannot be written here.", hint=ELSEWHERE)
    pre_tokenizer(whole)
    highest = max([*model["vocab"].values(), *(added["id"] for added in whole.get("added_tokens", ()))])
    if highest >= config["vocab_size"]:
        raise ModelError(f"The tokenizer has a token {highest}, and the model {config['vocab_size']} words.")
    return whole


def add_vocabulary(writer: Any, source: Path, config: dict[str, Any]) -> None:
    """The byte-level BPE of tokenizer.json, padded to the model's vocabulary."""
    from gguf import TokenType
    from transformers import AutoTokenizer

    whole = read_vocabulary(source / "tokenizer.json", config)
    model = whole["model"]
    tokens = [f"[PAD{number}]" for number in range(config["vocab_size"])]
    types = [int(TokenType.UNUSED)] * len(tokens)
    for token, number in model["vocab"].items():
        tokens[number], types[number] = token, int(TokenType.NORMAL)
    for added in whole.get("added_tokens", ()):
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], int(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(whole))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(adds_bos(tokenizer))
    if template := default_template(tokenizer.chat_template):
        writer.add_chat_template(template)


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself adds the first token."""
    return tokenizer.bos_token_id is not None and tokenizer.bos_token_id in tokenizer("")["input_ids"]


def pre_tokenizer(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for the way a tokenizer.json splits words. Raises ModelError unless it is exactly a known one:
    it would silently be split elsewhere."""
    given, model = tokenizer.get("pre_tokenizer") or {}, tokenizer["model"]
    parts = given.get("pretokenizers", [given]) if given.get("type") == "Sequence" else [given]
    last = parts[-1]
    plain = tokenizer.get("normalizer") is None and last.get("type") == "ByteLevel" and not last.get("add_prefix_space")
    if plain and len(parts) == 1 and last.get("use_regex", True):
        return "gpt-2"
    split = parts[0]
    exact = split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert")
    name = _PRE_TOKENIZERS.get(split.get("pattern", {}).get("Regex", "")) if exact else None
    if not plain or len(parts) != 2 or last.get("use_regex", True) or name is None:
        raise ModelError("rir-mlx knows no llama.cpp name for the way this tokenizer splits words.", hint=ELSEWHERE)
    if name == "llama-bpe" and not model.get("ignore_merges"):
        return "smaug-bpe"  # the same words; llama-bpe takes one that is in the vocabulary whole, past the merges
    return name
