"""Whether reasonings are right, and whether the model knows its words. Exact: the generator knows every right reasoning.

`python recipes/embedded/checking.py runs/demo` prints, for a finished run of the demo, how many of R-Gen's reasonings
for training rows and of each arm's own for test rows are right.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import lexicon
from knowledge import FAMILIES, SIGNS_OF
from world import Sample, draw_world

SEED = 7
"""The seed of the world whose rows ship with the package."""

Verdict = Literal["right", "sign", "clause", "rejected"]
"""`sign`: only the family of the cue is wrong; `clause`: a clause is wrong, or there is none; `rejected`: the filters
rejected all of a row's reasonings."""


@cache
def samples() -> dict[str, Sample]:
    """Every row of the data files, by its text."""
    splits, _ = draw_world(SEED)
    return {sample.text: sample for rows in splits.values() for sample in rows}


def judge(text: str, reasoning: str) -> Verdict:
    """Whether a reasoning for a row of the data files is right: it must say one of the row's clauses word for word,
    and end in a sign of the row's label. Raises KeyError for a text that is in none of the files."""
    right = samples()[text].right
    if reasoning.strip() in right:
        return "right"
    return "sign" if _without_sign(reasoning.strip()) in {_without_sign(form) for form in right} else "clause"


def _without_sign(reasoning: str) -> str:
    """The reasoning without the sign that it ends in."""
    signs = (f" {sign}." for family in SIGNS_OF.values() for sign in family)
    return next((reasoning.removesuffix(sign) for sign in signs if reasoning.endswith(sign)), reasoning)


def probe_words(complete: Callable[[list[str]], Sequence[str]]) -> dict[str, str]:
    """The words of the lexicon that a model does not know, and how it went on. `complete` continues each of several
    texts: "They say: the word cranky shows" must be followed by a sign of the word's feeling."""
    words = [(word, family) for family in FAMILIES for word in lexicon.feelings(family)]
    ends = complete([f"They say: the word {word} shows" for word, _ in words])
    return {
        word: end
        for (word, family), end in zip(words, ends, strict=True)
        if not end.strip().lower().startswith(SIGNS_OF[family])
    }


def count(rows: Iterable[dict[str, Any]]) -> Counter[Verdict]:
    """The verdicts of rows with a text and a reasoning, which is None where none was asked for."""
    return Counter(judge(row["text"], row["reasoning"]) for row in rows if row.get("reasoning") is not None)


def count_augmented(folder: Path) -> Counter[Verdict]:
    """The verdicts of R-Gen's reasonings for the training rows, those without an accepted one included."""
    lost = {row["id"] for row in _rows(folder / "rejected.jsonl") if row["lost"] and row["part"] == "train"}
    return count(_rows(folder / "train.jsonl")) + Counter[Verdict](rejected=len(lost))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(run: Path) -> None:
    """Print the shares of right reasonings in a run of the demo."""
    counts = {"R-Gen, training rows": count_augmented(run / "augmented")}
    for path in sorted(run.glob("evaluation/*/predictions.jsonl")):
        counts[f"{path.parent.name}, test rows"] = count(_rows(path))
    for name, counted in counts.items():
        if total := counted.total():
            shares = ", ".join(f"{what} {counted[what] / total:.1%}" for what in get_args(Verdict) if counted[what])
            print(f"{name}: {shares} of {total:,}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
