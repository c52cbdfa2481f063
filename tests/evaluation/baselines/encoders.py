"""A tiny random encoder, and rows that it can learn."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

FILLER = ["the", "a", "of", "to", "and", "when", "it", "was", "not", "about", "day", "home"]
CUES = {"joy": "smile laugh sunny", "fear": "dark scream trembling", "anger": "shout slam unfair"}
LABELS = ["fear", "anger", "joy"]

needs_torch = pytest.mark.skipif(find_spec("torch") is None or find_spec("peft") is None, reason="needs PyTorch")


def rows_of(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Each text holds one cue of its label among words that say nothing."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        label = LABELS[number % 3]
        words = [*rng.choices(FILLER, k=rng.randrange(3, 9)), rng.choice(CUES[label].split())]
        rng.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def make_encoder(folder: Path) -> Path:
    """A random BERT of two layers, with a tokenizer that knows the words above."""
    import torch
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLER, *" ".join(CUES.values()).split()]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(words[:4])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=18,
        )
        BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
