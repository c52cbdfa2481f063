"""Attention for training on a CPU, where the fused kernel has a slow backward pass.

Rows are short and many, so the scores are small: they are kept, and every part is a plain matrix product. Query heads
with a common key head share one product, without copying the keys.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "rir_products"
_NOT_PLAIN = ("position_bias", "s_aux", "cache")


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: [rows, heads, tokens, width] in, [rows, tokens, heads, width] out."""
    if more.get("softcap") is not None:
        return _softcapped(query, key, value, attention_mask, (scaling, more["softcap"], dropout))
    plain = attention_mask is not None and attention_mask.dtype == torch.bool and scaling is not None
    if not plain or dropout or any(more.get(name) is not None for name in _NOT_PLAIN) or not torch.is_grad_enabled():
        given = {"attention_mask": attention_mask, "dropout": dropout, "scaling": scaling}
        return sdpa_attention_forward(module, query, key, value, **given, **more)
    out: torch.Tensor = _Attention.apply(query, key, value, attention_mask, scaling)
    return out.transpose(1, 2), None


def _softcapped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    settings: tuple[float | None, float, float],
) -> tuple[torch.Tensor, None]:
    """Attention whose scores are capped by a tanh, as Gemma 2's are: no fused kernel knows it. `settings` are the
    scaling, the cap, and the dropout of the probabilities."""
    scaling, softcap, dropout = settings
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (torch.tanh(scores / softcap) * softcap).float()
    if mask is None:
        width, seen = scores.shape[-2:]
        mask = torch.ones(width, seen, dtype=torch.bool, device=query.device).tril(seen - width)
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    probabilities = torch.softmax(scores, -1).to(value.dtype)
    if dropout:
        probabilities = torch.nn.functional.dropout(probabilities, dropout)
    return (probabilities @ value).transpose(1, 2).contiguous(), None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        rows, heads, tokens, width = query.shape
        shared = key.shape[1]
        grouped = query.reshape(rows, shared, heads // shared * tokens, width)
        scores = (grouped @ key.transpose(2, 3)).float().mul_(scaling)
        scores.view(rows, shared, -1, tokens, key.shape[2]).masked_fill_(~mask[:, :, None], float("-inf"))
        probabilities = torch.softmax(scores, -1).to(value.dtype)
        ctx.save_for_backward(grouped, key, value, probabilities)
        ctx.scaling = scaling
        return (probabilities @ value).view(rows, heads, tokens, width)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grouped, key, value, probabilities = ctx.saved_tensors
        out = gradients[0].reshape(grouped.shape)
        of_probabilities = (out @ value.transpose(2, 3)).float()
        # d softmax: p · (g - Σ p g)
        weighted = of_probabilities.mul_(probabilities)
        of_scores = weighted.sub_(weighted.sum(-1, keepdim=True) * probabilities).mul_(ctx.scaling).to(key.dtype)
        of_query = (of_scores @ key).view(gradients[0].shape)
        of_key, of_value = of_scores.transpose(2, 3) @ grouped, probabilities.transpose(2, 3) @ out
        return of_query, of_key, of_value, None, None


def register() -> str:
    """Register the attention with transformers, and return its name."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
