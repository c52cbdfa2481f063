"""A check at load: do our paths compute what the model's own forward pass computes?

A few short rows run through all of our paths (shared prefix, padded batches, the tree of options, batched generation)
and, one at a time, through the library's own forward pass. For the check, attention windows are narrowed to fewer
tokens than the rows have, so that short rows test them too. Knows no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.base import Batch, Float32Array, Model, Request, Sampling, Tokens, pad_right
from rir_mlx.errors import ModelError

_WINDOW = 8
_PREFIX, _ROWS = 11, (9, 4)
_TOLERANCE = {"float32": 2e-3, "tf32": 0.03, "float16": 0.03, "bfloat16": 0.15}
"""How far logits may be off, as a share of their spread over the vocabulary. A forgotten window, factor or position is
off by about the spread itself, at every place."""
_ROUNDED = ("float16", "bfloat16")
"""At some places of random tokens a model may enlarge the rounding of 16 bits up to the spread (Gemma 3 270M: its own
logits differ by as much between bfloat16 and float32). Of the logits after a prefix the lower quartile of a
row's places counts, and a path is wrong only if it is so in each of several draws."""
_DRAWS = 5


class Checkable(Model, Protocol):
    """A model that can also run its library's own forward pass."""

    def own_logits(self, tokens: Tokens) -> Float32Array:
        """[tokens, vocabulary] in float32 from the library's own forward pass, without a cache."""
        ...

    def training_loss(self, batch: Batch) -> float:
        """The loss as a training step computes it, which may take other code than `loss`."""
        ...

    def window_of(self, tokens: int) -> AbstractContextManager[None]:
        """Narrow attention windows, in the library's forward pass and in ours. Does nothing if there are none."""
        ...


@dataclass(frozen=True)
class Checked:
    """The subject of a check: the model's name for messages, its vocabulary, and the dtype that it computes in
    (`tf32` is float32 multiplied with 10 bits, as on some GPUs)."""

    name: str
    vocabulary: int
    dtype: str


def check_forward(model: Checkable, what: Checked) -> None:
    """Raises ModelError, saying which path differs and by how much."""
    least: dict[str, float] = {}
    for seed in range(_DRAWS if what.dtype in _ROUNDED else 1):
        with model.window_of(_WINDOW):
            try:
                for path, difference in _largest(_differences(model, what, seed)).items():
                    least[path] = min(difference, least.get(path, np.inf))
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise _refused(what, f"running it fails: {type(error).__name__}: {error}") from error
        path, difference = max(least.items(), key=lambda pair: pair[1])
        if difference <= _TOLERANCE[what.dtype]:
            return
    raise _refused(what, f"{path} differ from its own forward pass by {difference:.2g} of the logits' spread")


def _refused(what: Checked, why: str) -> ModelError:
    return ModelError(
        f"Models of the type {what.name} are not supported by this backend: {why}.",
        hint="Try the other backend with --backend, or choose a model of another family.",
    )


def _largest(found: Iterator[tuple[str, float]]) -> dict[str, float]:
    """Each path with its largest difference; one that is no number counts as infinite."""
    largest: dict[str, float] = {}
    for path, difference in found:
        largest[path] = max(np.inf if np.isnan(difference) else difference, largest.get(path, 0.0))
    return largest


def _differences(model: Checkable, what: Checked, seed: int) -> Iterator[tuple[str, float]]:
    """The names of the paths and their differences, in units of the logits' spread."""
    rng = np.random.default_rng(seed)
    quantile = 0.25 if what.dtype in _ROUNDED else 1.0
    drawn = rng.integers(0, what.vocabulary, _PREFIX + sum(_ROWS) + 3).tolist()
    prefix, drawn = tuple(drawn[:_PREFIX]), drawn[_PREFIX:]
    rows = [tuple(drawn[: _ROWS[0]]), tuple(drawn[_ROWS[0] : sum(_ROWS)])]
    first, second, third = drawn[sum(_ROWS) :]
    own = [model.own_logits((*prefix, *row, first, second))[len(prefix) :] for row in rows]
    spread = float(np.mean([logits.std(axis=-1).mean() for logits in own]))
    if not np.isfinite(spread) or spread == 0:
        raise ModelError(
            f"The logits of this {what.name} model are not finite, or all equal, in {what.dtype}.",
            hint="Set dtype to float32 or bfloat16. If that does not help, fetch the weights again.",
        )

    found = model.last_logits([(*row, first) for row in rows], max(_ROWS) + 1, prefix=prefix)
    for ours, theirs in zip(found, own, strict=True):
        apart = np.quantile(np.abs(ours - theirs[:-1]).mean(axis=-1), quantile) if np.isfinite(ours).all() else np.inf
        yield "logits after a shared prefix", float(apart) / spread

    learned = [(*row, first, second) for row in rows]
    for loss in (model.loss, model.training_loss):
        yield "losses", abs(loss(_batch(prefix, learned)) - _loss(own, rows, (first, second))) / spread

    options = [(third,), (first,), (first, second)]
    scores = model.score(rows, options, prefix=prefix, batch_size=2)
    for row, theirs, ours in zip(rows, own, scores, strict=True):
        ends = [_log_softmax(theirs[len(row) - 1 + step]) for step in range(2)]
        wanted = np.array([ends[0][third], ends[0][first], ends[0][first] + ends[1][second]])
        yield "scores", float(np.abs(ours - wanted).max()) / spread / 2

    yield "generated tokens", _generated_gap(model, prefix, rows) / spread


def _generated_gap(model: Checkable, prefix: Tokens, rows: list[Tokens]) -> float:
    """The largest gap between the likeliest token and a greedily generated one, by the model's own logits."""
    requests = [Request(key, row) for key, row in enumerate(rows)]
    gaps = [0.0]
    for completion in model.generate(requests, Sampling(max_tokens=2, batch_size=2), prefix=prefix):
        own = model.own_logits((*prefix, *rows[completion.key], *completion.tokens))[-3:-1]
        gaps += [float(logits.max() - logits[token]) for logits, token in zip(own, completion.tokens, strict=True)]
    return float(np.max(gaps))


def _batch(prefix: Tokens, rows: list[Tokens]) -> Batch:
    """The last two tokens of each row are learned, with equal weights."""
    tokens, lengths = pad_right(rows)
    weights = np.zeros(tokens.shape, dtype=np.float32)
    for row, length in enumerate(lengths):
        weights[row, length - 2 : length] = 1 / (2 * len(rows))
    return Batch(prefix, tokens, lengths, weights)


def _loss(own: list[Float32Array], rows: list[Tokens], learned: Tokens) -> float:
    losses = [
        -_log_softmax(logits[len(row) - 1 + step])[token]
        for logits, row in zip(own, rows, strict=True)
        for step, token in enumerate(learned)
    ]
    return float(np.mean(losses))


def _log_softmax(logits: Float32Array) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - float(logits.max())
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


class PassedChecks:
    """Configurations that passed in this process: the same code on the same configuration is not checked again."""

    def __init__(self) -> None:
        self._passed: set[str] = set()

    def once(self, key: str, check: Callable[[], None]) -> None:
        if key not in self._passed:
            check()
            self._passed.add(key)
