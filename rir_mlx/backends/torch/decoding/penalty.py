"""The repetition penalty, from tokens that stay on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rir_mlx.backends.torch.transfers import sent

_COLUMNS = 64
"""Columns are added in steps of this size."""


class Written:
    """What each row has written, by slot. The host knows how many tokens these are, and need not have read them. Rows
    that have written nothing come last.

    `tokens` [slots, room] has a row's own first token wherever it has written none yet, so that every place of its
    logits that is named gets one value.
    """

    def __init__(self, slots: int, device: torch.device) -> None:
        self.tokens = torch.zeros(slots, 0, dtype=torch.int64, device=device)
        self.counts = torch.zeros(slots, dtype=torch.int64, device=device)

    def penalised(self, logits: torch.Tensor, counts: Sequence[int], penalty: float) -> torch.Tensor:
        """Logits [rows, vocabulary], divided by the penalty (above 0) or multiplied where a row has written the token;
        `counts` are how many it has written."""
        some = sum(count > 0 for count in counts)
        if not some:
            return logits
        places, before = self.tokens[:some, : max(counts)], logits[:some]
        values = before.gather(1, places)
        after = before.scatter(1, places, torch.where(values > 0, values / penalty, values * penalty))
        return after if some == len(counts) else torch.cat([after, logits[some:]])

    def add(self, drawn: torch.Tensor, counts: Sequence[int]) -> None:
        """The rows have drawn a token each, after `counts` others."""
        some, rows, room = sum(count > 0 for count in counts), len(counts), self.tokens.shape[1]
        if max(counts) >= room:
            first = self.tokens[:, :1] if room else self.counts[:, None]
            self.tokens = torch.cat([self.tokens, first.expand(-1, _COLUMNS)], 1)
        self.tokens[:some].scatter_(1, self.counts[:some, None], drawn[:some, None])
        self.tokens[some:rows] = drawn[some:, None]
        self.counts[some:rows] = 0
        self.counts[:rows] += 1

    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Rows have gone from slots into others."""
        if moves:
            places = sent(np.array(moves, dtype=np.int64), self.tokens.device)
            for kept in (self.tokens, self.counts):
                kept[places[:, 1]] = kept[places[:, 0]]
