"""Pointwise mutual information of a reasoning and its text, under R-Gen itself: how much likelier R-Gen finds the
reasoning with its text than with other texts of the same label.

    log p(reasoning | text, label) - log mean p(reasoning | other text, label)

A reasoning that R-Gen would write for any text of the label ("joy is a happy emotion") has about 0 nats. The tokens'
log-probabilities are summed, not averaged: the difference is then the log-likelihood ratio, which decides best whether
a reasoning belongs to a text (the lemma of Neyman and Pearson), and one telling word counts as much in a long reasoning
as in a short one. Other texts stand for the missing one because R-Gen has never read a prompt without a text.

Knows texts and numbers, not files or models: `Likelihoods` says how likely R-Gen finds a reasoning.
"""

from __future__ import annotations

import zlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

GROUP = 4
"""Texts of a label whose reasonings are compared with each other."""
PASSED_BY_CHANCE = 0.05
"""Share of the pairs of a reasoning and a text that do not belong together that the threshold lets pass."""

FloatArray = NDArray[np.float64]


class Likelihoods(Protocol):
    """R-Gen, as it finds reasonings likely."""

    def log_probabilities(self, label: str, texts: Sequence[str], reasonings: Sequence[str]) -> FloatArray:
        """[texts, reasonings] log p(reasoning | text, label), summed over its tokens and the one that ends it."""
        ...


@dataclass(frozen=True)
class TextGroup:
    """Different texts of a label, and the number of a row with each."""

    label: str
    texts: tuple[str, ...]
    numbers: tuple[int, ...]


def text_groups(rows: Iterable[tuple[int, str, str]], text_of: Callable[[int], str]) -> Iterator[TextGroup]:
    """The rows, each a number, a text and a label, in groups of `GROUP` different texts of a label; the last group of a
    label also takes what is left. Of equal rows the first stands for all. The texts decide which are together, not the
    order of the rows. A label's only text is in no group.

    The texts are not held: `text_of` gives that of a number."""
    found: dict[str, tuple[array[int], array[int]]] = defaultdict(lambda: (array("Q"), array("Q")))
    for number, text, label in rows:
        hashes, numbers = found[label]
        hashes.append(zlib.crc32(text.encode("utf-8", "replace")))
        numbers.append(number)
    for label, (hashes, numbers) in sorted(found.items()):
        waiting: list[tuple[str, int]] = []
        for text, number in _distinct(hashes, numbers, text_of):
            waiting.append((text, number))
            if len(waiting) == 2 * GROUP:
                yield _group(label, waiting[:GROUP])
                del waiting[:GROUP]
        if len(waiting) > 1:
            yield _group(label, waiting)


def _distinct(hashes: array[int], numbers: array[int], text_of: Callable[[int], str]) -> Iterator[tuple[str, int]]:
    """The different texts and the first number of each, by hash and, where hashes are equal, by text."""
    order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable")
    for _, same in groupby(order, lambda place: hashes[place]):
        firsts: dict[str, int] = {}
        for place in same:
            firsts.setdefault(text_of(numbers[place]), numbers[place])
        yield from sorted(firsts.items())


def _group(label: str, rows: Sequence[tuple[str, int]]) -> TextGroup:
    return TextGroup(label, tuple(text for text, _ in rows), tuple(number for _, number in rows))


def information(scores: FloatArray, own: int) -> float:
    """The mutual information, in nats, of a reasoning and the text numbered `own`. `scores` [texts, at least two] are
    the reasoning's log-probabilities with each text."""
    return float(scores[own] - _log_mean(np.delete(scores, own)))


def chance_information(scores: FloatArray, own: int) -> list[float]:
    """The same for each other text, as if the reasoning had been written for it; its own is left out. Nothing for a
    group of two."""
    others = np.delete(scores, own)
    return [information(others, index) for index in range(len(others))] if len(others) > 1 else []


@dataclass(frozen=True)
class Threshold:
    """The mutual information below which a reasoning is uninformative; None if there was nothing to find it from.

    pairs     pairs of a reasoning and a text that do not belong together, from which it was found
    exceeding the share of them that exceed it
    """

    nats: float | None
    pairs: int
    exceeding: float = 0.0


def threshold_of(chance: Sequence[float]) -> Threshold:
    """The mutual information that `PASSED_BY_CHANCE` of the pairs that do not belong together exceed, and at least 0,
    which fewer may exceed."""
    if not len(chance):
        return Threshold(None, 0)
    values = np.asarray(chance)
    nats = max(0.0, float(np.quantile(values, 1 - PASSED_BY_CHANCE)))
    return Threshold(nats, len(values), float(np.mean(values > nats)))


def _log_mean(values: FloatArray) -> float:
    top = float(values.max())
    return top + float(np.log(np.mean(np.exp(values - top))))
