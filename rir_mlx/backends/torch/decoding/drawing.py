"""How the next token of each row is drawn from its logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from rir_mlx.backends.base import Float32Array, Request, Sampling
from rir_mlx.backends.noise import RowNoise, blocks_of

_LIKELIEST = 256
"""This many tokens hold nearly every nucleus; sorting the vocabulary otherwise costs as much as a model step."""


@dataclass
class Row:
    """A row in progress, and what it has written."""

    request: Request
    limit: int
    generated: list[int] = field(default_factory=list)
    drawn: int = 0
    """Tokens that were drawn on the device; not all of them may have been read into `generated`."""
    done: bool = False
    noise: RowNoise | None = None

    def next_noise(self, vocabulary: int) -> Float32Array:
        self.noise = self.noise or RowNoise(self.request.seed, vocabulary)
        return self.noise.at(self.drawn)


def draw(logits: torch.Tensor, rows: Sequence[Row], sampling: Sampling) -> torch.Tensor:
    """[rows] the next token of each row from logits [rows, vocabulary], as `Sampling` says; -1 where the logits are no
    numbers."""
    if sampling.temperature == 0 and sampling.repetition_penalty == 1:
        likeliest = logits.max(-1)  # several times as fast as argmax
        return torch.where(likeliest.values.isfinite(), likeliest.indices, -1)
    logits = logits.float()
    drawn = _drawn(logits, rows, sampling)
    return torch.where(logits.amax(-1).isfinite(), drawn, -1)


def _drawn(logits: torch.Tensor, rows: Sequence[Row], sampling: Sampling) -> torch.Tensor:
    if sampling.repetition_penalty != 1:
        logits = _penalised(logits, [row.generated for row in rows], sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits.max(-1).indices
    scaled = logits / sampling.temperature
    if sampling.top_p < 1:
        scaled = _nucleus(scaled, sampling.top_p)
    if sampling.min_p > 0:
        least = scaled.amax(-1, keepdim=True) + math.log(sampling.min_p)
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    return _gumbel_max(scaled, rows)


def _gumbel_max(scaled: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """A token of each row by `rir_mlx.backends.noise`; `scaled` [rows, vocabulary] are logits, -inf where excluded."""
    count, vocabulary = scaled.shape
    blocks, width = blocks_of(vocabulary)
    noise = torch.from_numpy(np.stack([row.next_noise(vocabulary) for row in rows]))
    noise = (noise.pin_memory() if scaled.is_cuda else noise).to(scaled.device, non_blocking=True)
    padded = torch.nn.functional.pad(scaled, (0, blocks * width - vocabulary), value=-torch.inf)
    cut = padded.view(count, blocks, width)
    block = (cut.logsumexp(-1) + noise[:, :blocks]).argmax(-1)
    inside = cut[torch.arange(count, device=scaled.device), block] + noise[:, blocks:]
    return block * width + inside.argmax(-1)


def _penalised(logits: torch.Tensor, generated: Sequence[Sequence[int]], penalty: float) -> torch.Tensor:
    if not any(generated):
        return logits
    longest = max(len(tokens) for tokens in generated)
    # A row is padded with its own first token, so that no place gets two values.
    index = np.array([[*tokens, *([tokens[0] if tokens else 0] * (longest - len(tokens)))] for tokens in generated])
    real = np.array([[bool(tokens)] for tokens in generated])
    places, any_written = (torch.as_tensor(array, device=logits.device) for array in (index, real))
    values = logits.gather(1, places)
    penalised = torch.where(values > 0, values / penalty, values * penalty)
    return logits.scatter(1, places, torch.where(any_written, penalised, values))


def _nucleus(scaled: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keeps the logits of the likeliest tokens that make up the mass `top_p`; all others become -inf."""
    total = scaled.logsumexp(-1, keepdim=True)
    top = scaled.topk(min(_LIKELIEST, scaled.shape[-1]), -1).values
    if bool(((top - total).exp().sum(-1) < top_p).any()):
        top = scaled.sort(-1, descending=True).values
    mass = (top - total).exp()
    inside = (mass.cumsum(-1) - mass < top_p).sum(-1, keepdim=True)
    return scaled.masked_fill(scaled < top.gather(1, (inside - 1).clamp(min=0)), -torch.inf)  # 0 inside: no numbers
