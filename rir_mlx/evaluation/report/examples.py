"""Test rows as two classifiers saw them, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from rir_mlx.errors import Failure

Outcome = Literal["won", "lost", "both wrong", "both right"]

OUTCOMES: tuple[Outcome, ...] = ("won", "lost", "both wrong", "both right")
MOST = 400
"""Examples of an outcome that the report shows: with four outcomes some two megabytes at the most."""
LONGEST = 1200
"""Characters of a text or a reasoning that the report shows."""


def examples_of(
    first_rows: Iterable[Mapping[str, Any]],
    second_rows: Iterable[Mapping[str, Any]],
    names: tuple[str, str] = ("qa", "qar"),
) -> list[dict[str, Any]]:
    """Pair the rows of two predictions.jsonl, which hold the same texts in the same order, under the `names` of their
    arms. The second's confidence sorts them, highest first, and the reasoning is its own. An example is `won` where
    only the second is right.

    Raises Failure, with the row's number, where the two files are not about the same rows.
    """
    paired = enumerate(zip_longest(first_rows, second_rows), start=1)
    examples = [_pair(number, first, second, names) for number, (first, second) in paired]
    return sorted(examples, key=lambda one: -one["second"]["probability"])


def _pair(
    number: int, first: Mapping[str, Any] | None, second: Mapping[str, Any] | None, names: tuple[str, str]
) -> dict[str, Any]:
    if first is None or second is None or (first["text"], first["label"]) != (second["text"], second["label"]):
        raise Failure(
            f"The predictions of {names[0]} and {names[1]} are of different rows: they differ from row {number} on.",
            hint="Run `rir-mlx evaluate --force`.",
        )
    truth = second["label"]
    return {
        "text": second["text"],
        "label": truth,
        "reasoning": second.get("reasoning"),
        "outcome": _outcome(first["predicted"] == truth, second["predicted"] == truth),
        "first": _said(names[0], first),
        "second": _said(names[1], second),
    }


def _outcome(first: bool, second: bool) -> Outcome:
    if first:
        return "both right" if second else "lost"
    return "won" if second else "both wrong"


def _said(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "label": row["predicted"], "probability": row["probabilities"][row["predicted"]]}


@dataclass(frozen=True)
class Group:
    """The examples of one outcome that are shown, of `count`."""

    outcome: Outcome
    meaning: str
    count: int
    shown: Sequence[Mapping[str, Any]]


def groups(examples: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The examples by outcome, most confident first, at most MOST of each, texts cut after LONGEST characters."""
    if not examples:
        return []
    first, second = examples[0]["first"]["name"], examples[0]["second"]["name"]
    meanings: dict[Outcome, str] = {
        "won": f"only {second} is right",
        "lost": f"only {first} is right",
        "both wrong": f"neither {first} nor {second} is right",
        "both right": f"{first} and {second} are right",
    }
    found = []
    for outcome in OUTCOMES:
        rows = [one for one in examples if one["outcome"] == outcome]
        rows.sort(key=lambda one: -one["second"]["probability"])
        shown = [{**one, "text": cut(one["text"]), "reasoning": cut(one.get("reasoning"))} for one in rows[:MOST]]
        found.append(Group(outcome, meanings[outcome], len(rows), shown))
    return found


def cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= LONGEST else text[:LONGEST].rstrip() + " […]"
