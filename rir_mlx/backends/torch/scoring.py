"""Scoring with a PyTorch model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from rir_mlx.backends.base import Tokens, pad_right, scoring_rows

if TYPE_CHECKING:
    from rir_mlx.backends.torch.model import TorchModel


@torch.inference_mode()
def score(
    model: TorchModel, prompts: Sequence[Tokens], options: Sequence[Tokens], prefix: Tokens, batch_size: int
) -> NDArray[np.float64]:
    """`Model.score`: each prompt runs once; every option then continues the prompt's cache."""
    scores = np.zeros((len(prompts), len(options)))
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    batch_size = scoring_rows(batch_size, len(options))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        scores[chosen] = _score_group(model, [prompts[index] for index in chosen], options, prefix)
    return scores


def _score_group(
    model: TorchModel, prompts: Sequence[Tokens], options: Sequence[Tokens], prefix: Tokens
) -> NDArray[np.float64]:
    padded, lengths = pad_right(options)
    tokens = model.tensor(padded.astype(np.int64))
    state = _Rows.prefill(model, prompts, prefix)
    head = model.head
    first = torch.log_softmax(head(state.last).float(), dim=-1)[:, tokens[:, 0]]
    if padded.shape[1] == 1:
        return np.asarray(first.double().cpu().numpy())
    state.repeat(len(options))
    hidden = state.append(model, tokens[:, :-1].repeat(len(prompts), 1))
    rest = torch.log_softmax(head(hidden).float(), dim=-1)
    targets = tokens[:, 1:].repeat(len(prompts), 1)
    gathered = rest.gather(-1, targets[..., None])[..., 0]
    real = model.tensor(np.arange(1, padded.shape[1])[None] < lengths[:, None]).repeat(len(prompts), 1)
    following = (gathered * real).sum(-1).view(len(prompts), len(options))
    return np.asarray((first.double() + following.double()).cpu().numpy())


class _Rows:
    """The caches of rows that were prefilled together: prefix, left padding, then each row's own tokens."""

    def __init__(self, cache: DynamicCache, seen: torch.Tensor, last: torch.Tensor) -> None:
        self.cache = cache
        self.seen = seen  # [rows, cached] True where the cache holds a real token
        self.last = last  # [rows, width] hidden state of the last token

    @classmethod
    def prefill(cls, model: TorchModel, rows: Sequence[Tokens], prefix: Tokens) -> _Rows:
        longest = max(len(row) for row in rows)
        padded = np.array([[0] * (longest - len(row)) + list(row) for row in rows])
        real = np.array([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
        seen = np.ones((len(rows), len(prefix)), dtype=bool)
        state = cls(model.prefix_cache(prefix, len(rows)), model.tensor(seen), torch.empty(0))
        state.append(model, model.tensor(padded), model.tensor(real))
        return state

    def append(self, model: TorchModel, tokens: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """Run [rows, T] more tokens; returns their hidden states [rows, T, width]."""
        width, before = tokens.shape[1], self.seen.shape[1]
        real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real
        self.seen = torch.cat([self.seen, real], dim=1)
        positions = (self.seen.cumsum(1) - 1).clamp(min=0)[:, before:]
        mask = model.causal(before, width) & self.seen[:, None, None, :]
        # A padding token attends to itself: a row of the mask that is all False would give NaN.
        own = torch.eye(width, before + width, dtype=torch.bool, device=tokens.device).roll(before, dims=1)
        hidden = model.run(tokens, self.cache, mask | own[None, None], positions)
        self.last = hidden[:, -1]
        return hidden

    def repeat(self, times: int) -> None:
        self.cache.batch_repeat_interleave(times)
        self.seen = self.seen.repeat_interleave(times, dim=0)
