"""Test rows as every arm and baseline classified them, two of them side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, zip_longest
from typing import Any, Literal, get_args

import numpy as np

from rir_mlx.errors import Failure

Outcome = Literal["won", "lost", "both wrong", "both right"]
"""The second of two against the first: `won` if only the second is correct."""

_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
MAX_EXAMPLES = 150
"""Examples per outcome in the report: with four outcomes and five reasonings a row, some three megabytes."""
MAX_CHARACTERS = 1200
"""Characters of a text or reasoning in the report."""


@dataclass(frozen=True)
class Answer:
    """The label that an arm or baseline predicts, its probability, and the reasoning, where there is one."""

    label: str
    probability: float
    reasoning: str | None = None


@dataclass(frozen=True)
class Example:
    """A test row with its true label, and the answer of each arm and baseline by its name. An arm that answers twice
    has two: `qarqa first`, and `qarqa`."""

    text: str
    label: str
    answers: Mapping[str, Answer]

    def right(self, name: str) -> bool:
        return self.answers[name].label == self.label

    def outcome(self, pair: tuple[str, str]) -> Outcome:
        first, second = (self.right(name) for name in pair)
        if first:
            return "both right" if second else "lost"
        return "won" if second else "both wrong"


def row_examples(predictions: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[Example]:
    """The rows of several predictions.jsonl, by the name of the arm or baseline. All hold the same texts in the same
    order; one row of each is read at a time.

    Raises Failure with the row's number if two files hold different rows."""
    names = list(predictions)
    examples = []
    for number, rows in enumerate(zip_longest(*predictions.values()), start=1):
        for name, row in zip(names, rows, strict=True):
            if None in (row, rows[0]) or (row["text"], row["label"]) != (rows[0]["text"], rows[0]["label"]):
                raise Failure(
                    f"The predictions of {names[0]} and {name} hold different rows from row {number} on.",
                    hint="Run `rir-mlx evaluate --force`.",
                )
        answers: dict[str, Answer] = {}
        for name, row in zip(names, rows, strict=True):
            if first := row.get("first"):
                answers[first_name(name)] = Answer(first["label"], first["probability"])
            answers[name] = _answer(row)
        examples.append(Example(rows[0]["text"], rows[0]["label"], answers))
    return examples


def first_name(arm: str) -> str:
    """How the first answers of an arm that answers twice are called."""
    return f"{arm} first"


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(row["predicted"], row["probabilities"][row["predicted"]], row.get("reasoning"))


@dataclass(frozen=True)
class ExampleGroup:
    """The examples of one outcome: `count` of them, of which `shown` are in the report."""

    outcome: Outcome
    meaning: str
    count: int
    shown: Sequence[Example]


@dataclass(frozen=True)
class ExamplePage:
    """What the report shows of the examples.

    names    of the arms and baselines that can be put side by side
    pair     the two that are shown first
    groups   their examples by outcome
    totals   JSON: for each pair of places in `names`, as "0,1", how many test rows have each outcome
    rows     test rows
    clipped  whether some text or reasoning is cut
    """

    names: Sequence[str]
    pair: tuple[str, str]
    groups: Sequence[ExampleGroup]
    totals: str
    rows: int
    clipped: bool

    @property
    def held(self) -> int:
        """Rows that the page holds."""
        return sum(len(group.shown) for group in self.groups)


def example_page(examples: Sequence[Example], pair: tuple[str, str] | None = None) -> ExamplePage | None:
    """The most confident examples of each outcome of a pair, the first two if none is given or one of them is missing.
    None with fewer than two arms or baselines, or without rows."""
    names = list(examples[0].answers) if examples else []
    if len(names) < 2:
        return None
    if pair is None or not set(pair) <= set(names):
        pair = names[0], names[1]
    texts = (text for example in examples for text in (example.text, *_reasonings(example)))
    clipped = any(len(text) > MAX_CHARACTERS for text in texts)
    return ExamplePage(names, pair, _groups(examples, pair), _totals(examples, names), len(examples), clipped)


def _groups(examples: Sequence[Example], pair: tuple[str, str]) -> list[ExampleGroup]:
    """By outcome, the second's most confident first: at most MAX_EXAMPLES of each, texts cut to MAX_CHARACTERS."""
    first, second = pair
    meanings: dict[Outcome, str] = {
        "won": f"only {second} is correct",
        "lost": f"only {first} is correct",
        "both wrong": f"neither {first} nor {second} is correct",
        "both right": f"{first} and {second} are correct",
    }
    groups = []
    for outcome in _OUTCOMES:
        found = [example for example in examples if example.outcome(pair) == outcome]
        found.sort(key=lambda example: -example.answers[second].probability)
        groups.append(
            ExampleGroup(outcome, meanings[outcome], len(found), [_cut(each) for each in found[:MAX_EXAMPLES]])
        )
    return groups


def _totals(examples: Sequence[Example], names: Sequence[str]) -> str:
    right = {name: np.array([example.right(name) for example in examples]) for name in names}
    counts = {}
    for (one, first), (other, second) in permutations(enumerate(names), 2):
        a, b = right[first], right[second]
        counts[f"{one},{other}"] = [int(np.sum(rows)) for rows in (~a & b, a & ~b, ~a & ~b, a & b)]
    return json.dumps(counts, separators=(",", ":"))


def _reasonings(example: Example) -> list[str]:
    return [answer.reasoning for answer in example.answers.values() if answer.reasoning]


def _cut(example: Example) -> Example:
    answers = {
        name: replace(answer, reasoning=answer.reasoning and _shortened(answer.reasoning))
        for name, answer in example.answers.items()
    }
    return replace(example, text=_shortened(example.text), answers=answers)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS].rstrip() + " […]"
