"""How the next token of each row is drawn from its logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from rir_mlx.backends.base import Request, Sampling
from rir_mlx.backends.noise import BITS, as_int64, blocks_of, noise_bits
from rir_mlx.backends.torch.decoding.penalty import Written
from rir_mlx.backends.torch.transfers import Arriving, apart, sent

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


def draw(logits: torch.Tensor, rows: Sequence[Row], sampling: Sampling, written: Written | None = None) -> torch.Tensor:
    """[rows] the next token of each row from logits [rows, vocabulary], as `Sampling` says; -1 where the logits are no
    numbers. A repetition penalty is for what the rows have `written`."""
    if sampling.temperature == 0 and sampling.repetition_penalty == 1:
        likeliest = logits.max(-1)  # several times as fast as argmax
        return torch.where(likeliest.values.isfinite(), likeliest.indices, -1)
    logits = logits.float()
    chosen = logits
    if written is not None:
        chosen = written.penalised(logits, [row.drawn for row in rows], sampling.repetition_penalty)
    drawn = _drawn(chosen, rows, sampling)
    return torch.where(logits.amax(-1).isfinite(), drawn, -1)


def _drawn(logits: torch.Tensor, rows: Sequence[Row], sampling: Sampling) -> torch.Tensor:
    if sampling.temperature == 0:
        return logits.max(-1).indices
    scaled, count = logits / sampling.temperature, sum(blocks_of(logits.shape[-1]))
    if sampling.top_p >= 1:
        return _gumbel_max(scaled, noise_of(rows, count, logits.device), sampling.min_p)
    total, top = scaled.logsumexp(-1, keepdim=True), scaled.topk(min(_LIKELIEST, scaled.shape[-1]), -1).values
    too_few = Arriving(((top - total).exp().sum(-1) < sampling.top_p).any())
    noise = noise_of(rows, count, logits.device)

    def among(descending: torch.Tensor) -> torch.Tensor:
        return _gumbel_max(_nucleus(scaled, descending, total, sampling.top_p), noise, sampling.min_p)

    # A GPU draws as if they sufficed while the host waits for the answer; a processor has it at once.
    supposed = among(top) if apart(logits.device) else None
    if too_few.read():
        return among(scaled.sort(-1, descending=True).values)
    return among(top) if supposed is None else supposed


def _gumbel_max(scaled: torch.Tensor, noise: torch.Tensor, min_p: float) -> torch.Tensor:
    """A token of each row by `rir_mlx.backends.noise`; `scaled` [rows, vocabulary] are logits, -inf where excluded."""
    if min_p > 0:
        least = scaled.amax(-1, keepdim=True) + math.log(min_p)
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    count, vocabulary = scaled.shape
    blocks, width = blocks_of(vocabulary)
    padded = torch.nn.functional.pad(scaled, (0, blocks * width - vocabulary), value=-torch.inf)
    cut = padded.view(count, blocks, width)
    block = (cut.logsumexp(-1) + noise[:, :blocks]).argmax(-1)
    inside = cut[torch.arange(count, device=scaled.device), block] + noise[:, blocks:]
    return block * width + inside.argmax(-1)


def noise_of(rows: Sequence[Row], count: int, device: torch.device) -> torch.Tensor:
    """[rows, count] each row's Gumbel noise for its next token, made on the device, which waits for nothing."""
    seeds, steps = sent(np.stack([as_int64([row.request.seed for row in rows]), [row.drawn for row in rows]]), device)
    bits = noise_bits(seeds, steps, torch.arange(count, device=device))
    return -(-((bits.double() + 0.5) / 2.0**BITS).log()).log().float()


def _nucleus(scaled: torch.Tensor, descending: torch.Tensor, total: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keeps the logits of the likeliest tokens that make up the mass `top_p`; all others become -inf. `descending` are
    the largest logits, as many as hold that mass; `total` [rows, 1] is the logarithm of the whole."""
    mass = (descending - total).exp()
    inside = (mass.cumsum(-1) - mass < top_p).sum(-1, keepdim=True)
    return scaled.masked_fill(scaled < descending.gather(1, (inside - 1).clamp(min=0)), -torch.inf)  # 0: no numbers
