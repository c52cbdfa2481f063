"""The tiny model's folder: a byte-level BPE tokenizer with Llama 3's conventions, and a Llama of a million weights.

Everything is in the format of the Hugging Face hub, so that what opens Llama-3.2-1B-Instruct opens this as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
VOCABULARY = 4096
SPREAD = 0.2
"""Standard deviation of the first embeddings."""
RANK, WINDOW = 64, 4
"""Dimensions of the word vectors that the embeddings start from, and how far words may stand apart to count."""
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Llama 3 cuts text before BPE."""

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
"""Llama 3.2's template without its tools."""


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Byte-level BPE; the control tokens stand at the end of the vocabulary, as in Llama 3."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))],
            ),
        ]
    )
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise AssertionError(f"the vocabulary has {tokenizer.get_vocab_size()} tokens, expected {VOCABULARY}")
    return tokenizer


def config_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Every key of Llama-3.2-1B-Instruct's config, at a thousandth of the size.

    Rotary settings are written twice: `rope_parameters` is what transformers 5 reads, `rope_theta` and `rope_scaling`
    what everything else reads.
    """
    scaling = {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id("<|begin_of_text|>"),
        "dtype": "bfloat16",
        "eos_token_id": eos_ids(tokenizer),
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 320,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "pad_token_id": tokenizer.token_to_id("<|finetune_right_pad_id|>"),
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": 500000.0, **scaling},
        "rope_scaling": scaling,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


def eos_ids(tokenizer: Tokenizer) -> list[int]:
    """The tokens that end a text, in the order of the Instruct model."""
    return [tokenizer.token_to_id(token) for token in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")]


def word_vectors(tokenizer: Tokenizer, ids: torch.Tensor, seed: int) -> torch.Tensor:
    """A vector of `RANK` for each token, from which tokens stand near each other in rows of ids: the singular vectors
    of the positive pointwise mutual information (Levy & Goldberg 2014). Words of one meaning get similar vectors."""
    torch.manual_seed(seed)
    limit, counts = tokenizer.token_to_id(SPECIAL[0]), torch.zeros(VOCABULARY * VOCABULARY)
    for distance in range(1, WINDOW + 1):
        first, second = ids[:, :-distance].reshape(-1), ids[:, distance:].reshape(-1)
        text = (first < limit) & (second < limit)
        counts += torch.bincount(first[text] * VOCABULARY + second[text], minlength=VOCABULARY**2)
    counts = counts.view(VOCABULARY, VOCABULARY)
    counts = counts + counts.T
    often = counts.sum(1)
    context = often**0.75
    expected = often.clamp(min=1)[:, None] * context.clamp(min=1) / context.sum()
    left, values, _ = torch.svd_lowrank((counts / expected).clamp(min=1).log(), q=RANK + 8, niter=4)
    return left[:, :RANK] * values[:RANK].sqrt()


def new_model(tokenizer: Tokenizer, seed: int, vectors: torch.Tensor) -> LlamaForCausalLM:
    """An untrained model in float32 that starts from `word_vectors` and is able to copy.

    The weights start wider than the config's `initializer_range`, which is meant for a width of thousands. Half of an
    embedding is drawn by lot, so that tokens with similar vectors are told apart.
    """
    torch.manual_seed(seed)
    config = config_of(tokenizer)
    for key in ("dtype", "torch_dtype", "rope_theta", "rope_scaling", "architectures", "model_type"):
        config.pop(key)
    model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="sdpa")).float()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=SPREAD if "embed" in name else 0.05)
    embeddings = model.model.embed_tokens.weight.data
    known = vectors.norm(dim=1) > 1e-6
    scaled = SPREAD * RANK**0.5 * vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-6)
    embeddings[known, 1 : RANK + 1] = scaled[known]
    wire_copying(model)
    return model


@torch.no_grad()
def wire_copying(model: LlamaForCausalLM) -> None:
    """Set the first head of the first two layers to an induction circuit (Olsson et al. 2022, arXiv:2209.11895).

    Layer 0 looks one token back and notes which token stands there. Layer 1 looks for the place whose note is the
    current token, and writes what it finds: where `a b` was seen, `a` is followed by `b`. Prose teaches this only
    after many more tokens than a few minutes allow; here it is a start that training is free to change.

    Dimension 0 of the embeddings is a constant, which lets a head ask for a distance alone.
    """
    width, size, notes = model.config.hidden_size, model.config.head_dim, 22
    half, fast = size // 2, 5
    embeddings = model.model.embed_tokens.weight
    embeddings[:, 0] = 0
    embeddings.mul_(SPREAD * (width - 1) ** 0.5 / embeddings.norm(dim=1, keepdim=True))
    embeddings[:, 0] = 6 * SPREAD

    def directions(count: int) -> torch.Tensor:
        found = torch.zeros(count, width)
        found[:, 1:] = torch.linalg.qr(torch.randn(width - 1, count))[0].T
        return found

    # Rotary embeddings turn the first `fast` pairs quickly, which tells distances, and hardly turn the others.
    slow = [dimension for pair in range(fast, half) for dimension in (pair, pair + half)]
    read, write = torch.zeros(size, width), torch.zeros(size, width)
    read[slow], write[slow] = directions(notes), directions(notes)
    back, match = (layer.self_attn for layer in model.model.layers[:2])
    angle = -model.model.rotary_emb.inv_freq[:fast]
    query, key = back.q_proj.weight[:size], back.k_proj.weight[:size]
    query.mul_(0.1)
    key.mul_(0.1)
    query[:fast, 0], query[half : half + fast, 0], key[:fast, 0] = 2.5 * angle.cos(), 2.5 * angle.sin(), 2.5
    back.v_proj.weight[:size], back.o_proj.weight[:, :size] = read, 2 * SPREAD * write.T
    match.q_proj.weight[:size], match.k_proj.weight[:size] = 3 * read, 3 * write
    copied = directions(size)
    match.v_proj.weight[:size], match.o_proj.weight[:, :size] = copied, 12 * SPREAD * copied.T


def save_folder(folder: Path, tokenizer: Tokenizer, model: LlamaForCausalLM) -> None:
    """Write the folder: bfloat16 weights, config, generation config and tokenizer."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embeddings
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    generation = {
        "bos_token_id": tokenizer.token_to_id("<|begin_of_text|>"),
        "do_sample": True,
        "eos_token_id": eos_ids(tokenizer),
        "pad_token_id": tokenizer.token_to_id("<|finetune_right_pad_id|>"),
        "temperature": 0.6,
        "top_p": 0.9,
    }
    described = {
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for token in SPECIAL
        },
        "bos_token": "<|begin_of_text|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|eot_id|>",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "pad_token": "<|finetune_right_pad_id|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, content in (
        ("config.json", config_of(tokenizer)),
        ("generation_config.json", generation),
        ("tokenizer_config.json", described),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
