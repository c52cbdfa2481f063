"""Tiny random models of many families, made by transformers, and what its plain forward pass says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, WINDOW = 150, 16
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_GEMMA = {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 16, "tie_word_embeddings": True}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("LlamaConfig", {"tie_word_embeddings": False}),
    "llama3": ("LlamaConfig", {"rope_parameters": _LLAMA3, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3Config", {"no_rope_layers": [1, 0], "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2Config", _GEMMA | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0}),
    # mlx-lm rounds the square root of the width to bfloat16, transformers in float32 does not: of 64 it is 8 in both.
    "gemma3": ("Gemma3TextConfig", _GEMMA | {"num_hidden_layers": 3, "layer_types": _MIXED, "hidden_size": 64}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral-window": ("MistralConfig", {"sliding_window": WINDOW}),
    "phi3": ("Phi3Config", {"sliding_window": None}),
    "phi3-window": ("Phi3Config", {"sliding_window": WINDOW}),
    "granite": ("GraniteConfig", {"logits_scaling": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.2}),
    "cohere": ("CohereConfig", {"logit_scale": 0.25, "tie_word_embeddings": True}),
    "olmo2": ("Olmo2Config", {}),
    "olmo3": ("Olmo3Config", {"num_hidden_layers": 3, "layer_types": _MIXED, "sliding_window": WINDOW}),
}
"""Name → transformers' class of its config, and what differs from the common shape."""
UNLISTED: dict[str, tuple[str, dict[str, Any]]] = {
    "diffllama": ("DiffLlamaConfig", {}),  # changes values between the cache and the attention
    "gpt-neox": ("GPTNeoXConfig", {}),  # gives its cache no other arguments
}
"""Families that nothing was written for."""
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1, "head_dim": 8}
_GROUPED = _EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
_LATENT = {"num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8}
ODD_TO_TRAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek-v3": ("DeepseekV3Config", _GROUPED | _LATENT | {"qk_nope_head_dim": 16, "v_head_dim": 12}),
    "afmoe": ("AfmoeConfig", _EXPERTS | {"num_experts": 4, "sliding_window": WINDOW, "global_attn_every_n_layers": 2}),
    "dots1": ("Dots1Config", _GROUPED),
    "phimoe": ("PhimoeConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "olmo": ("OlmoConfig", {"clip_qkv": 1.0}),
    "opt": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "ministral3": ("Ministral3Config", {"head_dim": 8}),
}
"""Families with a peculiarity that only training meets: values narrower than keys, attention's result viewed or changed
in place, experts that stand under the names of linear modules, a router derived from one, other names for the layers,
and layers that are called with one more argument."""
_OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"tie_word_embeddings": True}),
    "phi": ("PhiConfig", {"partial_rotary_factor": 0.25}),
    "glm": ("GlmConfig", {"head_dim": 8, "partial_rotary_factor": 0.5}),
    "ernie": ("Ernie4_5_MoeConfig", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16}),
    **UNLISTED,
    **ODD_TO_TRAIN,
}

TITLES = {
    "llama2": "Llama 2",
    "llama3": "Llama 3 with scaled rotary angles, SmolLM2",
    "smollm3": "SmolLM3, some layers without positions",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen2-window": "Qwen2 with a window",
    "qwen3": "Qwen3",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3 (text)",
    "mistral": "Mistral",
    "mistral-window": "Mistral with a window",
    "phi3": "Phi-3",
    "phi3-window": "Phi-3 with a window",
    "granite": "Granite",
    "cohere": "Cohere",
    "olmo2": "OLMo 2",
    "olmo3": "OLMo 3",
}
"""Their names in `docs/concepts/models.md`."""

IGNORED_BY_MLX = {"qwen2-window", "gemma2", "mistral-window", "phi3-window"}
"""Families whose window mlx-lm ignores."""


def make_family(folder: Path, name: str, **changes: Any) -> Path:
    """Write config and random weights that make logits differ clearly, and return the folder."""
    import torch
    import transformers

    kind, own = (FAMILIES | _OTHERS)[name]
    config = getattr(transformers, kind)(**(_SHAPE | own | changes))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    return folder


class Plain:
    """A folder as a user of transformers runs it: eager attention, float32, nothing of ours."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")

    def _log_probabilities(self, tokens: Sequence[int]) -> Any:
        return self.logits(tokens).log_softmax(-1)

    def logits(self, tokens: Sequence[int]) -> Any:
        return self.model(self.torch.tensor([list(tokens)]), use_cache=False).logits[0]

    def score(self, prompt: Sequence[int], option: Sequence[int]) -> float:
        """Σ log p(option | prompt)."""
        with self.torch.no_grad():
            rows = self._log_probabilities([*prompt, *option])
        return float(sum(rows[len(prompt) - 1 + step, token] for step, token in enumerate(option)))

    def greedy(self, prompt: Sequence[int], count: int) -> tuple[int, ...]:
        generated: list[int] = []
        with self.torch.no_grad():
            for _ in range(count):
                generated.append(int(self.logits([*prompt, *generated])[-1].argmax()))
        return tuple(generated)

    def loss_and_gradient(self, rows: Sequence[Sequence[int]], learned: int) -> tuple[float, float]:
        """The mean loss of the last tokens of each row, and the norm of its gradient for all weights."""
        losses = [
            -self._log_probabilities(row)[len(row) - learned - 1 + step, row[len(row) - learned + step]]
            for row in rows
            for step in range(learned)
        ]
        loss = self.torch.stack(losses).mean()
        self.model.zero_grad()
        loss.backward()
        gradients = [part.grad.flatten() for part in self.model.parameters() if part.grad is not None]
        return float(loss.detach()), float(self.torch.cat(gradients).norm())

    def numpy(self, tokens: Sequence[int]) -> np.ndarray:
        with self.torch.no_grad():
            return np.asarray(self.logits(tokens).numpy())
