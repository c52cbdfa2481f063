"""Label scores of the measured rows, cached in a journal.

An interrupted evaluation resumes, and no row is scored twice. Knows no recipe and no stage.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.scores import LabelScores
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.progress import Progress
from rir_mlx.storage.journal import Journal

_CHUNK = 256
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class TimedScores:
    """Scores of n texts, and the mean seconds per text on this machine."""

    label_scores: LabelScores
    seconds: float


class MadeWith(NamedTuple):
    """What scores were computed with: the backend's name, the device's, and the number format of the frozen weights."""

    backend: str
    device: str
    dtype: str


class OtherFormatError(Exception):
    """Some scores must be computed, and the journal holds scores of another number format."""


class ScoreCache:
    """Scores texts with a classifier unless the journal holds their scores. `identity` stands for everything that
    determines a score besides the text, the way of scoring and what `dtype: auto` means. `load` and `made_with` are
    called once a text must be scored; raises OtherFormatError then if the journal holds scores of another number
    format, unless it `may_mix` them. `used` is what the scores that were given were made with."""

    def __init__(
        self,
        journal: Journal,
        identity: str,
        load: Callable[[], Classifier],
        progress: Progress,
        made_with: Callable[[], MadeWith],
    ) -> None:
        self.journal, self.progress = journal, progress
        self.may_mix = False
        self.used = set[MadeWith]()
        self._base = hashlib.sha256(identity.encode())
        self._load, self._made_with = load, made_with
        self._loaded: Classifier | None = None

    @property
    def classifier(self) -> Classifier:
        if self._loaded is None:
            self._now = self._made_with()
            if not self.may_mix and self.other_formats():
                raise OtherFormatError
            self._loaded = self._load()
        return self._loaded

    def other_formats(self) -> set[str]:
        """The number formats of the journal's scores that are not this machine's."""
        found = {_made_with(result).dtype for result in self.journal.results() if result.get("scores")}
        return found - {self._made_with().dtype, _UNKNOWN}

    def direct(self, texts: Sequence[str], batch_size: int, what: str) -> TimedScores:
        """Labels from the text alone."""

        def make(chunk: list[int]) -> list[LabelScores]:
            return [self.classifier.direct([texts[index] for index in chunk], batch_size)]

        return self._scores(what, texts, [["direct"] * len(texts)], make)[0]

    # `firsts` are the labels that an arm which answers twice gave before, None for every other arm

    def reasoned(
        self, texts: Sequence[str], batch_size: int, what: str, firsts: Sequence[str] | None = None
    ) -> TimedScores:
        """Labels after the likeliest reasoning."""

        def make(chunk: list[int]) -> list[LabelScores]:
            some = [texts[index] for index in chunk]
            return [self.classifier.reasoned(some, batch_size, firsts=_chosen(firsts, chunk))]

        return self._scores(what, texts, [_after(["reasoned"] * len(texts), firsts)], make)[0]

    def sampled(
        self, texts: Sequence[str], options: PredictOptions, what: str, firsts: Sequence[str] | None = None
    ) -> list[TimedScores]:
        """Labels after drawn reasonings: scores for each draw."""

        def make(chunk: list[int]) -> list[LabelScores]:
            some = [texts[index] for index in chunk]
            return self.classifier.sampled(some, options, after=known, firsts=_chosen(firsts, chunk))

        drawn = [f"sampled at {options.temperature}, number {chain}" for chain in range(options.samples)]
        ways = [_after([way] * len(texts), firsts) for way in drawn]
        kept = [all(self._key(text, way[0]) in self.journal for text in texts) for way in ways]
        known = kept.index(False) if False in kept else len(kept)  # from an evaluation with fewer samples
        return [self._scores(what, texts, [way], make)[0] for way in ways[:known]] + (
            self._scores(what, texts, ways[known:], make) if known < len(ways) else []
        )

    def given(
        self,
        texts: Sequence[str],
        reasonings: Sequence[str],
        batch_size: int,
        what: str,
        firsts: Sequence[str] | None = None,
    ) -> TimedScores:
        """Labels after the given reasonings."""

        def make(chunk: list[int]) -> list[LabelScores]:
            some = [texts[index] for index in chunk], [reasonings[index] for index in chunk]
            return [self.classifier.given(*some, batch_size, firsts=_chosen(firsts, chunk))]

        ways = _after([f"given {reasoning}" for reasoning in reasonings], firsts)
        return self._scores(what, texts, [ways], make)[0]

    def explanations(self, texts: Sequence[str], labels: Sequence[str], batch_size: int, what: str) -> list[str]:
        """The reasonings that are generated after labels."""

        def make(chunk: list[int]) -> list[LabelScores]:
            written = self.classifier.explanations(
                [texts[index] for index in chunk], [labels[index] for index in chunk], batch_size
            )
            nothing = np.zeros((len(chunk), 0))
            return [
                LabelScores(nothing, [text for text, _ in written], [size for _, size in written], [0] * len(chunk))
            ]

        timed = self._scores(what, texts, [[f"explains {label}" for label in labels]], make)[0]
        return [reasoning or "" for reasoning in timed.label_scores.reasonings]

    def _scores(
        self,
        what: str,
        texts: Sequence[str],
        ways: Sequence[Sequence[str]],
        make: Callable[[list[int]], list[LabelScores]],
    ) -> list[TimedScores]:
        """Scores for each list of `ways`, which holds the way of scoring for every text. `make` scores the texts at the
        given indices in all of these ways."""
        keys = [[self._key(text, way) for text, way in zip(texts, each, strict=True)] for each in ways]
        due = [index for index in range(len(texts)) if any(each[index] not in self.journal for each in keys)]
        due = sorted({keys[0][index]: index for index in reversed(due)}.values())  # equal texts once
        if due:
            _ = self.classifier
            with self.progress.task(what, len(due)) as task:
                for start in range(0, len(due), _CHUNK):
                    chunk = due[start : start + _CHUNK]
                    started = time.perf_counter()
                    made = make(chunk)
                    seconds = (time.perf_counter() - started) / len(chunk) / len(made)
                    for each, label_scores in zip(keys, made, strict=True):
                        for place, index in enumerate(chunk):
                            self._keep(each[index], label_scores, place, seconds)
                    task.advance(len(chunk))
        return [self._stored(each) for each in keys]

    def _key(self, text: str, way: str) -> str:
        digest = self._base.copy()
        digest.update(json.dumps([way, text]).encode())
        return digest.hexdigest()[:16]

    def _keep(self, key: str, scored: LabelScores, place: int, seconds: float) -> None:
        line: dict[str, Any] = {
            "key": key,
            "scores": scored.scores[place].tolist(),
            "reasoning": scored.reasonings[place],
        }
        counts = {"tokens": scored.tokens[place], "trimmed": scored.trimmed[place]}
        self.journal.append(line | counts | {"seconds": round(seconds, 6), "with": self._now})

    def _stored(self, keys: Sequence[str]) -> TimedScores:
        if not keys:  # without rows the number of labels does not matter
            return TimedScores(LabelScores(np.zeros((0, 1)), [], [], []), 0.0)
        scores = np.zeros((len(keys), len((self.journal.get(keys[0]) or {})["scores"])))
        rest = []
        for place, key in enumerate(keys):  # row by row: lists of numbers take four times the memory of an array
            found = self.journal.get(key) or {}
            scores[place] = found["scores"]
            if found["scores"]:  # and no text to read, of which no figure is made
                self.used.add(_made_with(found))
            rest.append([found[name] for name in ("reasoning", "tokens", "trimmed", "seconds")])
        reasonings, tokens, trimmed, seconds = (list(column) for column in zip(*rest, strict=True))
        return TimedScores(LabelScores(scores, reasonings, tokens, trimmed), float(np.mean(seconds)))


def _made_with(result: Mapping[str, Any]) -> MadeWith:
    return MadeWith(*result.get("with", [_UNKNOWN] * len(MadeWith._fields)))


def _chosen(firsts: Sequence[str] | None, chunk: Sequence[int]) -> list[str] | None:
    return None if firsts is None else [firsts[index] for index in chunk]


def _after(ways: Sequence[str], firsts: Sequence[str] | None) -> list[str]:
    """The ways of scoring, each after a first label."""
    if firsts is None:
        return list(ways)
    return [f"{way} after {first!r}" for way, first in zip(ways, firsts, strict=True)]
