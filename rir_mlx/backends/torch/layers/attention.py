"""The attention of all models: the fused kernel, and plain matrix products where they are faster.

For training on a CPU, where the kernel's backward pass is slow: rows are short and many, so the scores are small, and
are kept. And for a token of each of many rows after a prefix that they share: its keys are multiplied with all rows at
once, and are nowhere copied. Query heads with a common key head share one product or kernel, without copying the keys.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rir_mlx.errors import ModelError

NAME = "rir_products"
PREFIX = "rir_prefix"
"""The argument, passed on by the decoder, that gives the cache's layers: each has the keys and values of the prefix
that all rows share, and those that it gave out for the rows."""
_NOT_PLAIN = ("position_bias", "s_aux", "cache")
_MANY = 8
"""From so many rows on, products with the prefix take no longer than the fused kernel after a copy."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values [rows, heads, tokens, width]."""


def joined(prefix: Pair, keys: torch.Tensor, values: torch.Tensor) -> Pair:
    """Keys and values of a prefix [1, heads, tokens, width], copied before those of each row."""
    first, second = (
        torch.cat([part.expand(len(own), -1, -1, -1), own], dim=2)
        for part, own in zip(prefix, (keys, values), strict=True)
    )
    return first, second


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
    """transformers' attention interface: [rows, heads, tokens, width] in, [rows, tokens, heads, width] out. With a
    shared prefix, its columns come first in the mask, and are not among the keys."""
    if (layers := more.pop(PREFIX, None)) is not None:
        layer = layers[module.layer_idx]
        prefix = layer.prefix
        if key is not layer.own[0] or value is not layer.own[1]:  # the prefix's would have to be changed alike
            raise ModelError(f"{type(module).__name__} changes keys or values after the cache.")
        if len(query) >= _MANY and query.shape[2] == 1 and _is_plain(attention_mask, scaling, dropout, more):
            given = (scaling, more.get("softcap"))
            return _after_prefix(query, prefix, (key, value), attention_mask, given).transpose(1, 2), None
        key, value = joined(prefix, key, value)
    if more.get("softcap") is not None:
        return _softcapped(query, key, value, attention_mask, (scaling, more["softcap"], dropout))
    if _is_plain(attention_mask, scaling, dropout, more):
        if torch.is_grad_enabled() and query.device.type == "cpu":
            out: torch.Tensor = _Attention.apply(query, key, value, attention_mask, scaling)
            return out.transpose(1, 2).contiguous(), None  # as transformers' own: some models view it
        if query.shape[2] <= key.shape[1] * key.shape[3]:
            out = _grouped(query, key, value, attention_mask, scaling)
            return out.transpose(1, 2).contiguous(), None
    named = {"attention_mask": attention_mask, "dropout": dropout, "scaling": scaling}
    return sdpa_attention_forward(module, query, key, value, **named, **more)


def _is_plain(mask: Any, scaling: float | None, dropout: float, more: dict[str, Any]) -> bool:
    """Whether it is no more than a softmax of scaled scores under a mask that all heads share."""
    masked = mask is not None and mask.dtype == torch.bool and mask.shape[1] == 1 and scaling is not None
    return masked and not dropout and all(more.get(name) is None for name in _NOT_PLAIN)


def _grouped(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: Any) -> torch.Tensor:
    """The fused kernel, with the query heads of a common key head as more tokens of that head: no key is copied for
    them. The mask is, for each of them; with more tokens than a key has numbers that would be more to copy."""
    rows, heads, tokens, width = query.shape
    shared = key.shape[1]
    groups = heads // shared
    if tokens > 1 and groups > 1:
        mask = mask[:, :, None].expand(-1, -1, groups, -1, -1).flatten(2, 3)
    grouped = query.reshape(rows, shared, groups * tokens, width)
    out = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, heads, tokens, -1)


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


@torch.autocast("cpu", enabled=False)
def _after_prefix(
    query: torch.Tensor, prefix: Pair, own: Pair, mask: Any, settings: tuple[Any, float | None]
) -> torch.Tensor:
    """Attention of one token of each row to a prefix that all rows share and to the row's own keys, with one softmax
    over both. On a CPU in float32, because those without AMX multiply many small matrices of 16 bits slowly; elsewhere
    in the model's own format, so that in 16 bits scores are rounded once more than in the fused kernel. The softmax is
    always in float32. `settings` are the scaling, and the cap of the scores if there is one."""
    scaling, softcap = settings
    rows, heads, _, width = query.shape
    shared, before = prefix[0].shape[1:3]
    groups = heads // shared
    dtype = _product_dtype(query)
    keys, values, own_keys, own_values = (part.to(dtype) for part in (*prefix, *own))

    grouped = query.float().mul(scaling).to(dtype).view(rows, shared, groups, width)
    together = grouped.transpose(0, 1).reshape(shared, rows * groups, width) @ keys[0].transpose(1, 2)
    scores = torch.cat([together.view(shared, rows, groups, before).transpose(0, 1), grouped @ own_keys.mT], dim=-1)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    probabilities = torch.softmax(scores.masked_fill_(~mask, -torch.inf), -1, dtype=torch.float32).to(dtype)
    out = probabilities[..., before:] @ own_values
    seen = probabilities[..., :before].transpose(0, 1).reshape(shared, rows * groups, before) @ values[0]
    out += seen.view(shared, rows, groups, -1).transpose(0, 1)
    return out.view(rows, heads, 1, -1).to(query.dtype)


def _product_dtype(query: torch.Tensor) -> torch.dtype:
    return torch.float32 if query.device.type == "cpu" else query.dtype


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
        return (probabilities @ value).view(rows, heads, tokens, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grouped, key, value, probabilities = ctx.saved_tensors
        out = gradients[0].reshape(*grouped.shape[:3], -1)
        of_probabilities = (out @ value.transpose(2, 3)).float()
        # d softmax: p · (g - Σ p g)
        weighted = of_probabilities.mul_(probabilities)
        of_scores = weighted.sub_(weighted.sum(-1, keepdim=True) * probabilities).mul_(ctx.scaling).to(key.dtype)
        of_query = (of_scores @ key).view(*gradients[0].shape[:3], -1)
        of_key, of_value = of_scores.transpose(2, 3) @ grouped, probabilities.transpose(2, 3) @ out
        return of_query, of_key, of_value, None, None


def register() -> str:
    """Register the attention with transformers, and return its name."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
