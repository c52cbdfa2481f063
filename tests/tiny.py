"""A two-layer random Llama in exactly the hub's folder format, written without a framework."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

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
LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}{{- 'Cutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: ' + date_string + '\n\n' }}{{- '<|eot_id|>' }}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
CORPUS = (
    "i feel happy today because my friend came home",
    "i was sad and now i am angry at the rain",
    "Explain what leads from the question to the answer. Question: Answer: Labels: joy, sadness, anger Text:",
    "Which label fits the text? Give your reasoning, then the label.",
)


def make_tiny_llama(
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    tied: bool = True,
    chat: bool = True,
    vocabulary: int = 0,
) -> Path:
    """Write config, weights (float32), tokenizer and chat template, and return the folder. A `vocabulary` may be larger
    than the tokenizer's."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = max(vocabulary, tokenizer.get_vocab_size())
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    _write(folder / "tokenizer_config.json", _tokenizer_config(chat))
    eos = [ids["<|end_of_text|>"], ids["<|eom_id|>"], ids["<|eot_id|>"]] if chat else ids["<|end_of_text|>"]
    _write(folder / "config.json", _config(vocabulary, hidden, layers, tied, ids["<|begin_of_text|>"], eos))
    _write(folder / "generation_config.json", {"eos_token_id": eos, "bos_token_id": ids["<|begin_of_text|>"]})
    save_file(_weights(vocabulary, hidden, layers, tied, seed), folder / "model.safetensors", {"format": "pt"})
    return folder


SENTENCEPIECE_TEMPLATES = {
    "llama2": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
    "phi3": "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "none": None,
}


def make_tiny_sentencepiece(folder: Path, template: str = "llama2", *, metaspace: bool = False) -> Path:
    """The tiny model with a tokenizer that puts a space before every text, as those of Llama 2, Mistral and Phi-3 do:
    before each stretch between control tokens, or, with `metaspace`, before the first alone."""
    make_tiny_llama(folder, vocabulary=600)
    words = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
    spelt = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁\n]+|\n|▁"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*words, *spelt], show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, "Labels: joy, sadness, anger [INST] [/INST]"], trainer)
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] not in spelt]
    tokenizer = Tokenizer.from_str(json.dumps(values))
    ends = [decoders.ByteFallback(), decoders.Fuse()]
    if metaspace:
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence([*ends, decoders.Metaspace(prepend_scheme="first", split=False)])
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = None
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), *ends, decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    written = SENTENCEPIECE_TEMPLATES[template]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "unk_token": "<unk>"}
    _write(folder / "tokenizer_config.json", settings | {"eos_token": "</s>", "chat_template": written})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _write(folder / "config.json", config | {"bos_token_id": 1, "eos_token_id": 2})
    _write(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": [2, 5]})
    return folder


def _write(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


def _train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    bos = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


def _tokenizer_config(chat: bool) -> dict[str, object]:
    values: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>" if chat else "<|end_of_text|>",
        "pad_token": "<|finetune_right_pad_id|>",
        "model_max_length": 131072,
    }
    return values | ({"chat_template": TEMPLATE} if chat else {})


def _config(vocabulary: int, hidden: int, layers: int, tied: bool, bos: int, eos: object) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "head_dim": hidden // 4,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": hidden * 3,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 64,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": vocabulary,
    }


def _weights(vocabulary: int, hidden: int, layers: int, tied: bool, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.12, shape).astype(np.float32)

    weights = {"model.embed_tokens.weight": draw(vocabulary, hidden), "model.norm.weight": 1 + draw(hidden)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name, rows in (("q", hidden), ("k", hidden // 2), ("v", hidden // 2), ("o", hidden)):
            weights[f"{at}self_attn.{name}_proj.weight"] = draw(rows, hidden)
        weights[f"{at}mlp.gate_proj.weight"] = draw(hidden * 3, hidden)
        weights[f"{at}mlp.up_proj.weight"] = draw(hidden * 3, hidden)
        weights[f"{at}mlp.down_proj.weight"] = draw(hidden, hidden * 3)
        weights[f"{at}input_layernorm.weight"] = 1 + draw(hidden)
        weights[f"{at}post_attention_layernorm.weight"] = 1 + draw(hidden)
    if not tied:
        weights["lm_head.weight"] = draw(vocabulary, hidden)
    return weights
