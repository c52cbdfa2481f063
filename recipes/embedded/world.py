"""A small synthetic world: sentences whose feeling takes a step to work out, and the reasoning that works it out.

Pure Python, no framework: `Writer` draws one sample at a time from a seeded generator, and `write_world` writes the
data files of the demo. The label is what the writer ("i") feels now. Most sentences name or show a second feeling,
which was before, is denied, or is somebody else's, so that the words alone do not decide.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lexicon
from patterns import CUE_SHOWS, PATTERNS
from scenes import BEHAVIOUR, FELT, FILLERS, LABELS, SIGNS, SLOTS, TURNS

from rir_mlx.prompting.prompts import question_of

INSTRUCTION = "Which feeling does the writer have now?"
SIZES = {"train": 2400, "validation": 300, "test": 600}
TRIPLES = 560
BALANCE = (0.32, 0.27, 0.19, 0.22)
"""Shares of `LABELS`."""


@dataclass(frozen=True)
class Sample:
    """A text, its label, and why.

    `right` holds every reasoning that is right, one for each sign of the label. `first` is
    the other feeling of the text as an adjective, and `who` has or had it.
    """

    text: str
    label: str
    reasoning: str
    right: frozenset[str]
    kind: str
    cue: str
    first: str = ""
    who: str = ""


CASUAL = (
    ("i am", "im"),
    ("do not", "dont"),
    ("cannot", "cant"),
    ("did not", "didnt"),
    ("does not", "doesnt"),
    ("it is", "its"),
    ("will not", "wont"),
    ("is not", "isnt"),
    ("i have not", "i havent"),
    ("i would", "id"),
)


class Writer:
    """Draws samples. The same seed gives the same samples in the same order."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def choose(self, options: tuple[str, ...] | list[str]) -> str:
        return self.rng.choice(options)

    def person(self) -> str:
        """Somebody who is not the writer: `my sister`, `anna`."""
        if self.rng.random() < 0.35:
            return self.choose(lexicon.NAMES)
        return "my " + self.choose(lexicon.PEOPLE)

    def slots(self) -> dict[str, str]:
        """One word for each slot, so that an event and its explanation speak of the same."""
        words = {name: self.choose(options) for name, options in SLOTS.items()}
        words.update(
            person=self.person(),
            thing=self.choose(lexicon.THINGS),
            place=self.choose(lexicon.PLACES),
            food=self.choose(lexicon.FOOD),
        )
        return words

    def feeling(self, label: str) -> tuple[str, str]:
        """(clause, cue): how the writer says a feeling. The cue is the part of the clause that matters."""
        if self.rng.random() < 0.2:
            cue = self.choose(BEHAVIOUR[label])
            return f"i {cue}", cue
        cue = self.choose(FELT[label])
        adverb = self.choose(("", "", "", "so ", "very ", "really ", "a bit ", "rather ", "just ", "simply "))
        verb = self.choose(("am", "am", "feel", "feel", "am feeling"))
        return f"i {verb} {adverb}{cue}", cue

    def sample(self, label: str) -> Sample:
        """One sentence with `label`."""
        pattern = self.rng.choices(PATTERNS, [pattern.weight for pattern in PATTERNS])[0]
        other = self.choose([name for name in LABELS if name != label])
        slots = self.slots()
        now, cue = self.feeling(label)
        words = {
            "NOW": now, "CUE": cue, "SIGN": self.choose(SIGNS[label]), "OTHER": self.choose(FELT[other]),
            "BEHAVIOUR": self.choose(BEHAVIOUR[other]), "PERSON": self.person(), "THING": self.choose(lexicon.THINGS),
            "TIME": self.choose(lexicon.times()), "TURN": self.choose(TURNS).format(**slots),
            "FILLER": self.choose(FILLERS).format(**slots),
        }  # fmt: skip
        casual = self.rng.random() < 0.5
        text = _fill(pattern.text, words)
        told = words | {"CUE": _contract(cue) if casual else cue}
        right = {sign: _fill(f"{pattern.reason} {CUE_SHOWS}", told | {"SIGN": sign}) for sign in SIGNS[label]}
        first = words["OTHER"] if "OTHER" in pattern.text else ""
        who = words["PERSON"] if pattern.kind == "someone" and first else ""
        return Sample(
            text=_contract(text) if casual else text, label=label, reasoning=right[words["SIGN"]],
            right=frozenset(right.values()), kind=pattern.kind, cue=told["CUE"], first=first, who=who,
        )  # fmt: skip

    def stream(self) -> Iterator[Sample]:
        """Samples without end, no text twice, labels by `BALANCE`."""
        seen = set[str]()
        while True:
            sample = self.sample(self.rng.choices(LABELS, BALANCE)[0])
            if sample.text not in seen:
                seen.add(sample.text)
                yield sample

    def triple(self, sample: Sample) -> dict[str, str]:
        """The sample as a question, its answer and the reasoning between them; a tenth ask something else."""
        if sample.who and self.rng.random() < 0.3:
            question = question_of(["the writer", sample.who], f"Who is {sample.first}?")
            reasoning = f"Being {sample.first} is somebody else's."
            return {"question": question + sample.text, "answer": sample.who, "reasoning": reasoning}
        if sample.kind == "past" and sample.first and self.rng.random() < 0.3:
            question = question_of(["yes", "no"], f"Is the writer still {sample.first}?")
            return {"question": question + sample.text, "answer": "no", "reasoning": f"Being {sample.first} is past."}
        question = question_of(LABELS, INSTRUCTION) + sample.text
        return {"question": question, "answer": sample.label, "reasoning": sample.reasoning}


def _fill(template: str, words: dict[str, str]) -> str:
    return re.sub(r"[A-Z]{3,}", lambda match: words[match.group()], template)


def _contract(text: str) -> str:
    for full, short in CASUAL:
        text = re.sub(rf"\b{full}\b", short, text)
    return text


def draw_world(seed: int) -> tuple[dict[str, list[Sample]], list[dict[str, str]]]:
    """The rows of each split, and the reasoning triples. No text is drawn twice."""
    writer = Writer(seed)
    stream = writer.stream()
    splits = {name: [next(stream) for _ in range(size)] for name, size in SIZES.items()}
    drawn = [next(stream) for _ in range(TRIPLES)]
    return splits, [writer.triple(sample) for sample in drawn]


def write_world(folder: Path, seed: int) -> None:
    """Write the data files of the demo."""
    splits, triples = draw_world(seed)
    for name, rows in splits.items():
        with (folder / f"feelings-{name}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("text", "label"))
            table.writerows((sample.text, sample.label) for sample in rows)
    lines = (json.dumps(triple, ensure_ascii=False) + "\n" for triple in triples)
    (folder / "reasoning.jsonl").write_text("".join(lines), encoding="utf-8")
