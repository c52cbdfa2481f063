"""Test rows as two arms classified them, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal

from rir_mlx.errors import Failure

Outcome = Literal["won", "lost", "both wrong", "both right"]
"""The second arm against the first: `won` if only the second is correct."""

_OUTCOMES: tuple[Outcome, ...] = ("won", "lost", "both wrong", "both right")
MAX_EXAMPLES = 400
"""Examples per outcome in the report: with four outcomes, at most about two megabytes."""
MAX_CHARACTERS = 1200
"""Characters of a text or reasoning in the report."""


@dataclass(frozen=True)
class ArmAnswer:
    """The label that an arm predicts, and its probability."""

    arm: str
    label: str
    probability: float


@dataclass(frozen=True)
class PairedExample:
    """A test row with its true label, the answers of two arms, and the reasoning of the second."""

    text: str
    label: str
    reasoning: str | None
    outcome: Outcome
    first: ArmAnswer
    second: ArmAnswer


def pair_examples(
    first_rows: Iterable[Mapping[str, Any]], second_rows: Iterable[Mapping[str, Any]], arms: tuple[str, str]
) -> list[PairedExample]:
    """Pair the rows of two predictions.jsonl, which hold the same texts in the same order. The examples are sorted by
    the second arm's confidence, highest first.

    Raises Failure with the row's number if the two files hold different rows.
    """
    paired = enumerate(zip_longest(first_rows, second_rows), start=1)
    examples = [_pair(number, first, second, arms) for number, (first, second) in paired]
    return sorted(examples, key=_least_confident_last)


def _pair(
    number: int, first: Mapping[str, Any] | None, second: Mapping[str, Any] | None, arms: tuple[str, str]
) -> PairedExample:
    if first is None or second is None or (first["text"], first["label"]) != (second["text"], second["label"]):
        raise Failure(
            f"The predictions of {arms[0]} and {arms[1]} hold different rows from row {number} on.",
            hint="Run `rir-mlx evaluate --force`.",
        )
    truth = second["label"]
    return PairedExample(
        text=second["text"],
        label=truth,
        reasoning=second.get("reasoning"),
        outcome=_outcome(first["predicted"] == truth, second["predicted"] == truth),
        first=_answer(arms[0], first),
        second=_answer(arms[1], second),
    )


def _outcome(first_correct: bool, second_correct: bool) -> Outcome:
    if first_correct:
        return "both right" if second_correct else "lost"
    return "won" if second_correct else "both wrong"


def _answer(arm: str, row: Mapping[str, Any]) -> ArmAnswer:
    return ArmAnswer(arm, row["predicted"], row["probabilities"][row["predicted"]])


def _least_confident_last(example: PairedExample) -> float:
    return -example.second.probability


@dataclass(frozen=True)
class ExampleGroup:
    """The examples of one outcome: `count` of them, of which `shown` are in the report."""

    outcome: Outcome
    meaning: str
    count: int
    shown: Sequence[PairedExample]


def example_groups(examples: Sequence[PairedExample]) -> list[ExampleGroup]:
    """The examples by outcome, most confident first: at most MAX_EXAMPLES of each, texts cut to MAX_CHARACTERS."""
    if not examples:
        return []
    first, second = examples[0].first.arm, examples[0].second.arm
    meanings: dict[Outcome, str] = {
        "won": f"only {second} is correct",
        "lost": f"only {first} is correct",
        "both wrong": f"neither {first} nor {second} is correct",
        "both right": f"{first} and {second} are correct",
    }
    groups = []
    for outcome in _OUTCOMES:
        found = sorted((example for example in examples if example.outcome == outcome), key=_least_confident_last)
        shown = [
            replace(example, text=_cut(example.text), reasoning=example.reasoning and _cut(example.reasoning))
            for example in found[:MAX_EXAMPLES]
        ]
        groups.append(ExampleGroup(outcome, meanings[outcome], len(found), shown))
    return groups


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS].rstrip() + " […]"
