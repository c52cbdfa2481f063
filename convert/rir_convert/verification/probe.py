"""What a model is asked, and what it answers: log-probabilities, label scores and the outputs of its layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from rir_mlx.backends.base import Float32Array, Tokens

ROWS = 64
"""Rows of the run's data that are compared."""
_LAST = 4
"""Positions of a row, its last ones, whose logits are kept: over 128,256 words each takes half a MB."""
_LONG, _LONG_LAST = 1024, 32
"""Tokens of the row that shows rotary scaling, which short ones hide."""
_BATCH = 8
"""Rows whose labels are scored together: beside weights in float32 there may be room for little."""
_PAIRWISE = 16
"""Rows whose labels are scored where an engine runs every label in a pass of its own."""


class ProbedModel(Protocol):
    """What can be probed: a `Model` of a backend, or llama.cpp."""

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]: ...


@dataclass(frozen=True)
class Probe:
    """Rows behind a shared prefix, and the labels' tokens. Without `options` there are no labels."""

    prefix: Tokens
    prompts: Sequence[Tokens]
    options: Sequence[Tokens] = ()

    @property
    def rows(self) -> list[Tokens]:
        """Each prompt to the end of the longest label, after the prefix."""
        longest = max(self.options, key=len, default=())
        return [prompt + longest[:-1] for prompt in self.prompts]

    @property
    def long(self) -> Tokens:
        """All rows as one long sequence."""
        return tuple(token for row in self.rows for token in self.prefix + row)[:_LONG]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(self.long), len(self.prefix) + max(len(row) for row in self.rows))


@dataclass(frozen=True)
class ProbeAnswers:
    """What an engine answers: log-probabilities [positions, vocabulary] of every row and of the long one; the
    labels' scores [rows, labels], of fewer rows where that is slow; the layers' outputs of the first row."""

    rows: Sequence[NDArray[np.float32]]
    long: NDArray[np.float32]
    scores: NDArray[np.float64] | None
    layers: Sequence[Float32Array]


@dataclass(frozen=True)
class Reference:
    """What a verified folder has to answer. `effect` is how far the adapter model's answers are from its base's, by
    `mean_difference`."""

    probe: Probe
    answers: ProbeAnswers
    effect: float


def answer_probe(engine: ProbedModel, probe: Probe) -> ProbeAnswers:
    """An engine's answers to a probe."""
    long = log_softmax(next(engine.last_logits([probe.long], _LONG_LAST)), axis=-1).astype(np.float32)
    layers = engine.layer_outputs(probe.prefix + probe.rows[0]) if hasattr(engine, "layer_outputs") else []
    return ProbeAnswers(answer_rows(engine, probe), long, _scores(engine, probe) if probe.options else None, layers)


def answer_rows(engine: ProbedModel, probe: Probe, count: int = ROWS) -> list[NDArray[np.float32]]:
    """Log-probabilities of so many of the rows, at the last few positions only, as each takes the vocabulary's size."""
    logits = engine.last_logits(probe.rows[:count], _LAST, prefix=probe.prefix)
    return [log_softmax(row, axis=-1).astype(np.float32) for row in logits]


def _scores(engine: ProbedModel, probe: Probe) -> NDArray[np.float64]:
    if hasattr(engine, "score"):
        scores: NDArray[np.float64] = engine.score(probe.prompts, probe.options, prefix=probe.prefix, batch_size=_BATCH)
        return scores
    found = np.zeros((min(len(probe.prompts), _PAIRWISE), len(probe.options)))
    for column, option in enumerate(probe.options):
        rows = [prompt + option[:-1] for prompt in probe.prompts[:_PAIRWISE]]
        for row, logits in enumerate(engine.last_logits(rows, len(option), prefix=probe.prefix)):
            found[row, column] = log_softmax(logits, axis=-1)[np.arange(len(option)), list(option)].sum()
    return found


def mean_difference(ours: Sequence[NDArray[np.float32]], theirs: Sequence[NDArray[np.float32]]) -> float:
    """Mean over positions of the largest difference of a log-probability, of the rows that both have."""
    pairs = list(zip(ours, theirs, strict=False))
    if any(a.shape != b.shape for a, b in pairs):
        return math.inf
    return float(np.mean(np.concatenate([np.abs(a - b).max(-1) for a, b in pairs])))
