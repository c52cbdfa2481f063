"""One measurement of one program, and the settings that all programs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rir_mlx.backends.base import OptimizerSpec
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.types import FineTuneType

SPEC, OPTIMIZER, RATE = AdapterSpec(rank=16), OptimizerSpec(), 1e-4
LENGTHS = range(10, 121)
"""Tokens of a reasoning, in the benchmarks that draw how long each is."""


def drawn_lengths(lengths: range, count: int) -> list[int]:
    """`count` numbers from `lengths`, drawn evenly with a fixed seed: the same for every program."""
    drawn: list[int] = np.random.default_rng(0).integers(lengths.start, lengths.stop, count).tolist()
    return drawn


class PeerJob(Protocol):
    """Who works, with which model, and how many rows at a time."""

    @property
    def peer(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def folder(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def batch(self) -> int: ...


@dataclass(frozen=True)
class Job:
    """One program on one task. In training the first `warmup` of the `steps` are not counted. With `seconds` the work
    ends after that long, and `ours` takes fewer rows at a time where `batch` rows would not fit into it several times,
    unless `as_told`. `rows` are written or classified in a round, at most `batch` at a time; 0 means as many as
    `batch`. A reasoning has `tokens` tokens, or with `lengths`, a first number and one after the last, as many as are
    drawn from them with a fixed seed: rows enter and leave while others go on. The rest says what is trained."""

    peer: str
    task: str
    backend: str
    folder: str
    dtype: str
    batch: int
    warmup: int = 1
    steps: int = 10_000
    seconds: float = 0.0
    as_told: bool = False
    rows: int = 0
    tokens: int = 64
    lengths: Sequence[int] = ()
    kind: FineTuneType = SPEC.fine_tune_type
    layers: int = SPEC.num_layers
    keys: Sequence[str] = ()
    rank: int = SPEC.rank
    scale: float = SPEC.scale
    grad_checkpoint: bool = False

    @property
    def may_shrink(self) -> bool:
        """Whether fewer rows at a time may be taken than `batch`."""
        return self.peer == "ours" and bool(self.seconds) and not self.as_told

    def reasonings(self) -> list[int]:
        """The tokens of each row's reasoning in a round."""
        count = self.rows or self.batch
        return drawn_lengths(range(*self.lengths), count) if self.lengths else [self.tokens] * count

    @property
    def spec(self) -> AdapterSpec:
        return AdapterSpec(self.kind, self.layers, self.rank, self.scale, keys=tuple(self.keys))
