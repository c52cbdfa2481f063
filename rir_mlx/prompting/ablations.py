"""Shuffled, swapped and corrupted reasonings, which show whether their content matters.

A classifier that learns as much from the reasonings of other rows, or from shuffled words, did not learn from their
content (arXiv:2406.14511). A label that stays the same when its reasoning is swapped or corrupted does not depend on it
(arXiv:2307.13702). Knows only strings; the same seed gives the same result everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rir_mlx.types import Arm


def as_learned(arm: Arm, reasonings: Sequence[str | None], seed: int) -> list[str | None]:
    """The reasonings that an arm learns: a control learns shuffled ones, in the rows that have one."""
    present = [reasoning for reasoning in reasonings if reasoning is not None]
    if arm == "qra-scrambled":
        present = shuffle_among(present, seed)
    elif arm == "qra-words":
        present = [shuffle_words(reasoning, seed + place) for place, reasoning in enumerate(present)]
    others = iter(present)
    return [None if reasoning is None else next(others) for reasoning in reasonings]


def shuffle_among(reasonings: Sequence[str], seed: int) -> list[str]:
    """The same reasonings in another order, in which no row keeps its own or an equal one.

    If more than half of the rows share a reasoning, as few of them as possible keep it. A single row keeps its own.
    """
    rng = random.Random(seed)
    places: dict[str, list[int]] = {}
    for place, reasoning in enumerate(reasonings):
        places.setdefault(reasoning, []).append(place)
    groups = list(places.values())
    rng.shuffle(groups)
    for group in groups:
        rng.shuffle(group)
    # Equal reasonings are adjacent, so a step as long as the largest group leads out of every group.
    order = [place for group in groups for place in group]
    step = max(map(len, groups), default=0)
    result = list(reasonings)
    for index, place in enumerate(order):
        result[place] = reasonings[order[(index + step) % len(order)]]
    return result


def shuffle_words(reasoning: str, seed: int) -> str:
    """The words of a reasoning in another order, separated by single spaces. Rows with the same seed are shuffled
    independently. If all words are equal, the order stays."""
    words = reasoning.split()
    rng = _of_row(reasoning, seed)
    shuffled = list(words)
    while shuffled == words and len(set(words)) > 1:
        rng.shuffle(shuffled)
    return " ".join(shuffled)


def swap_among(reasonings: Sequence[str], labels: Sequence[str], seed: int) -> list[str]:
    """For every row, the reasoning of a row drawn uniformly from those with another label; its own if all rows share a
    label. `labels` are usually the predicted ones: a label that depends on its reasoning then changes. A reasoning may
    be drawn for several rows."""
    rng = random.Random(seed)
    order = sorted(range(len(labels)), key=lambda row: labels[row])
    first = {labels[row]: index for index, row in reversed(list(enumerate(order)))}
    last = {labels[row]: index + 1 for index, row in enumerate(order)}
    result = []
    for own, label in zip(reasonings, labels, strict=True):
        size = last[label] - first[label]
        if size == len(order):
            result.append(own)
            continue
        index = rng.randrange(len(order) - size)
        result.append(reasonings[order[index if index < first[label] else index + size]])
    return result


def vocabulary(reasonings: Sequence[str]) -> list[str]:
    """Every word of the reasonings, as often as it occurs."""
    return [word for reasoning in reasonings for word in reasoning.split()]


def corrupt(reasoning: str, seed: int, vocabulary: Sequence[str]) -> str:
    """A reasoning with half of its words, rounded up, replaced by other words drawn from the vocabulary. The rest stay
    in place, separated by single spaces. A word also stays if the vocabulary holds no other."""
    words = reasoning.split()
    rng = _of_row(reasoning, seed)
    for place in rng.sample(range(len(words)), (len(words) + 1) // 2):
        drawn = rng.choice(vocabulary) if vocabulary else words[place]
        if drawn == words[place]:
            others = [word for word in vocabulary if word != drawn]
            drawn = rng.choice(others) if others else drawn
        words[place] = drawn
    return " ".join(words)


def _of_row(reasoning: str, seed: int) -> random.Random:
    return random.Random(f"{seed} {reasoning}")
