"""Tiny tokenizers as Qwen's and Gemma's are, in a model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny import make_tiny_llama, make_tiny_sentencepiece


def qwen(folder: Path) -> int:
    """Write a byte-level tokenizer that takes digits apart and composes characters; return its size."""
    make_tiny_llama(folder / "llama")
    whole = _tokenizer(folder / "llama")
    split = whole["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    split["Regex"] = split["Regex"].replace(r"\p{N}{1,3}", r"\p{N}")
    whole |= {"normalizer": {"type": "NFC"}, "post_processor": None}
    return _write(folder, whole, {"eos_token": "<|eot_id|>"})


def gemma(folder: Path) -> int:
    """Write a tokenizer of pieces that puts no space before a text; return its size."""
    make_tiny_sentencepiece(folder / "llama")
    whole = _tokenizer(folder / "llama")
    vocabulary, merges = whole["model"]["vocab"], whole["model"]["merges"]
    for length in (2, 3, 4):  # runs of spaces, which are made in more than one way
        vocabulary["▁" * length] = len(vocabulary)
        merges.append(["▁" * (length - 1), "▁"])
    whole["model"]["merges"] = all_merges(whole["model"])
    space = {"String": " "}
    whole["normalizer"] = {"type": "Replace", "pattern": space, "content": "▁"}
    whole["pre_tokenizer"] = {"type": "Split", "pattern": space, "behavior": "MergedWithPrevious", "invert": False}
    return _write(folder, whole, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def all_merges(model: dict[str, Any]) -> list[list[str]]:
    """Every pair that gives a token, token after token, as transformers makes them of SentencePiece's scores."""
    known = model["vocab"]
    joined = dict.fromkeys("".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"])
    pairs = ([token[:cut], token[cut:]] for token in joined for cut in range(1, len(token)))
    return [pair for pair in pairs if pair[0] in known and pair[1] in known]


def _tokenizer(folder: Path) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return whole


def _write(folder: Path, whole: dict[str, Any], special: dict[str, str]) -> int:
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | special
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return len(whole["model"]["vocab"])
