"""What a model is asked, and what it answers: log-probabilities, label scores and the outputs of its layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from rir_mlx.backends.base import Float32Array, Model, Tokens
from rir_mlx.classification.scores import Prediction
from rir_mlx.progress import Progress, Silent, Task

ROWS = 64
"""Rows of the run's data that are compared."""
_LAST = 4
"""Positions of a row, its last ones, whose logits are kept: over 128,256 words each takes half a MB."""
_LONG, _LONG_LAST = 1024, 32
"""Tokens of the row that shows rotary scaling and windows, which short ones hide."""
_BATCH = 8
"""Rows whose labels the reference scores together: beside weights in float32 there may be room for little."""
_ROW_TOKENS, _FEWEST_ROWS = 8192, 8
"""Tokens of rows that an engine runs. It runs each row from its first token, so long prompts leave room for fewer."""
_LABEL_TOKENS, _FEWEST_SCORED = 16_384, 4
"""Tokens of rows whose labels an engine scores: each label is a pass of its own."""
_LABELS = 8
"""Labels of a row that are scored, those that the reference finds likeliest."""
_UNSHOWN = Silent()


class ProbedModel(Protocol):
    """What can be probed: an engine, llama.cpp, or a `Model` of a backend."""

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]: ...


@dataclass(frozen=True)
class Probe:
    """Rows behind a shared prefix, and the labels' tokens. Without `options` there are no labels. `limit` is the most
    tokens of the long sequence."""

    prefix: Tokens
    prompts: Sequence[Tokens]
    options: Sequence[Tokens] = ()
    limit: int = _LONG

    @property
    def rows(self) -> list[Tokens]:
        """Each prompt to the end of the longest label, after the prefix."""
        longest = max(self.options, key=len, default=())
        return [prompt + longest[:-1] for prompt in self.prompts]

    @property
    def long(self) -> Tokens:
        """All rows as one long sequence."""
        return tuple(token for row in self.rows for token in self.prefix + row)[: self.limit]

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row, the prefix included."""
        return len(self.prefix) + max(len(row) for row in self.rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(self.long), self.longest_row)

    def rows_within(self, tokens: int) -> int:
        """How many of the first rows have so many tokens together, but not too few to compare."""
        sizes = np.cumsum([len(self.prefix) + len(row) for row in self.rows])
        return min(len(sizes), max(_FEWEST_ROWS, int(np.searchsorted(sizes, tokens, side="right"))))


@dataclass(frozen=True)
class ProbeAnswers:
    """What a model answers.

    rows    log-probabilities [positions, vocabulary] of every row that it was asked, the first ones of the probe
    long    those of the long one; None if it was not asked
    scores  [rows, labels] the labels'; None without labels
    layers  [tokens, width] of what enters the first layer and of what each gives, for the first row
    asked   [rows, labels] which scores are there; None for all
    partial log-probabilities are NaN for tokens that the engine does not tell
    """

    rows: Sequence[NDArray[np.float32]]
    long: NDArray[np.float32] | None
    scores: NDArray[np.float64] | None
    layers: Sequence[Float32Array]
    asked: NDArray[np.bool_] | None = None
    partial: bool = False


@dataclass(frozen=True)
class Reference:
    """What a verified folder has to answer.

    effect   how far the adapter model's answers are from its base's, by `mean_difference`
    example  what the classifier makes of the model card's text; None where that is not asked
    """

    probe: Probe
    answers: ProbeAnswers
    effect: float
    example: Prediction | None = None


def reference_answers(model: Model, probe: Probe) -> ProbeAnswers:
    """A backend's answers to all of a probe, by the code that training and classification use: the shared prefix, its
    own head and masks, and the tree of labels."""
    scores = None
    if probe.options:
        scores = model.score(probe.prompts, probe.options, prefix=probe.prefix, batch_size=_BATCH)
    return ProbeAnswers(answer_rows(model, probe), _long(model, probe), scores, _layers(model, probe))


@dataclass(frozen=True)
class Asking:
    """How much an engine is asked, and where that is shown.

    longest    the most tokens that the engine runs right; None without a limit
    every_row  whether the labels of all rows are scored, however long that takes
    progress   what shows the rows that it has run, under the name of `what`
    """

    longest: int | None = None
    every_row: bool = False
    progress: Progress = field(default_factory=Silent)
    what: str = "rows"


_AS_USUAL = Asking()


def engine_answers(
    engine: ProbedModel, probe: Probe, ours: NDArray[np.float64] | None = None, asking: Asking = _AS_USUAL
) -> ProbeAnswers:
    """An engine's answers to as much of a probe as it takes to compare. `ours` are the reference's scores of the
    labels, None if they are not compared."""
    scores = asked = None
    count = probe.rows_within(_ROW_TOKENS)
    if ours is not None:
        asked = asked_labels(probe, ours, every_row=asking.every_row)
    with asking.progress.task(asking.what, count + (0 if asked is None else int(asked.sum()))) as task:
        if asked is not None:
            scores = _scores(engine, probe, asked, task)
        rows = answer_rows(engine, probe, count, task)
    longest = asking.longest
    long = _long(engine, probe) if longest is None or len(probe.long) <= longest else None
    return ProbeAnswers(rows, long, scores, _layers(engine, probe), asked, getattr(engine, "partial", False))


def answer_rows(
    engine: ProbedModel, probe: Probe, count: int = ROWS, task: Task = _UNSHOWN
) -> list[NDArray[np.float32]]:
    """Log-probabilities of the first `count` rows, at only the last few positions, since each is as large as the
    vocabulary."""
    found = []
    for logits in engine.last_logits(probe.rows[:count], _LAST, prefix=probe.prefix):
        found.append(_log_probabilities(engine, logits))
        task.advance()
    return found


def _log_probabilities(engine: ProbedModel, logits: Float32Array) -> NDArray[np.float32]:
    """Of a model's logits. A partial engine tells log-probabilities."""
    return logits if getattr(engine, "partial", False) else log_softmax(logits, axis=-1).astype(np.float32)


def asked_labels(probe: Probe, scores: NDArray[np.float64], *, every_row: bool = False) -> NDArray[np.bool_]:
    """[rows, labels] which scores an engine without a tree of labels is asked for, given the reference's."""
    likeliest = np.argsort(-scores, axis=1, kind="stable")[:, :_LABELS]
    asked = np.zeros(scores.shape, dtype=np.bool_)
    np.put_along_axis(asked, likeliest, True, axis=1)
    lengths = np.array([len(option) - 1 for option in probe.options])
    starts = np.array([len(probe.prefix) + len(prompt) for prompt in probe.prompts])
    tokens = np.cumsum(np.where(asked, starts[:, None] + lengths, 0).sum(axis=1))
    if not every_row:
        asked[max(_FEWEST_SCORED, int(np.searchsorted(tokens, _LABEL_TOKENS, side="right"))) :] = False
    return asked


def most_tokens(config: Mapping[str, Any], longest: int | None = None) -> int:
    """`Probe.limit` for a model with this config; `longest` is that of the backend or library which runs it."""
    limits = (_LONG, config.get("max_position_embeddings", config.get("n_positions")), longest)
    return min(limit for limit in limits if limit)


def _long(engine: ProbedModel, probe: Probe) -> NDArray[np.float32]:
    return _log_probabilities(engine, next(engine.last_logits([probe.long], _LONG_LAST)))


def _layers(engine: ProbedModel, probe: Probe) -> Sequence[Float32Array]:
    layers: list[Float32Array] = (
        engine.layer_outputs(probe.prefix + probe.rows[0]) if hasattr(engine, "layer_outputs") else []
    )
    return layers


def _scores(engine: ProbedModel, probe: Probe, asked: NDArray[np.bool_], task: Task) -> NDArray[np.float64]:
    """[rows, labels] Σ log p(label tokens | prefix, prompt), 0 where it was not asked."""
    found = np.zeros(asked.shape)
    if hasattr(engine, "option_score"):  # row by row: llama.cpp keeps the latest one in its cache
        for row, column in np.argwhere(asked).tolist():
            found[row, column] = engine.option_score(probe.prefix + probe.prompts[row], probe.options[column])
            task.advance()
        return found
    for column, option in enumerate(probe.options):
        chosen = np.flatnonzero(asked[:, column]).tolist()
        rows = [probe.prompts[row] + option[:-1] for row in chosen]
        for row, logits in zip(chosen, engine.last_logits(rows, len(option), prefix=probe.prefix), strict=True):
            found[row, column] = log_softmax(logits, axis=-1)[np.arange(len(option)), list(option)].sum()
            task.advance()
    return found


def mean_difference(ours: Sequence[NDArray[np.float32]], theirs: Sequence[NDArray[np.float32]]) -> float:
    """Mean over positions of the largest difference of a log-probability, of the rows that both have."""
    pairs = list(zip(ours, theirs, strict=False))
    if any(a.shape != b.shape for a, b in pairs):
        return math.inf
    return float(np.mean(np.concatenate([np.abs(a - b).max(-1) for a, b in pairs])))


def where_told(ours: Sequence[NDArray[np.float32]], theirs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """A partial engine's log-probabilities, with ours for the tokens that it does not tell. A position of which it
    tells nothing stays NaN, and so differs."""
    return [
        np.where(np.isnan(b) & ~np.isnan(b).all(-1, keepdims=True), a, b) if a.shape == b.shape else b
        for a, b in zip(ours, theirs, strict=False)
    ]
