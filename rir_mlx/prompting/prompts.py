"""Rows to prompts.

Every prompt is a user message made of pieces: constant pieces that we wrote, and slots that hold what the user
gave. The constant part comes first and the text of the row last, so that all rows of a task start with the same
tokens. Nothing here knows a tokenizer or a framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rir_mlx.types import CONTROLS, AnswerFormat, Arm, ReasoningPrompt

DELIMITER = "\nLabel:"
"""Stands between a reasoning and its label. Where the label comes first it ends the prompt, so that all arms predict
the same label tokens."""
REASONING = "\nReasoning:"
"""Stands between a label and its reasoning."""

_HOW: dict[AnswerFormat, str] = {
    "label": "Answer with the label.",
    "reasoning, label": "Give your reasoning, then the label.",
    "label, reasoning": "Give the label, then your reasoning.",
    "label, reasoning, label": "Give a first label, then your reasoning, then the label.",
    "reasoning": "Give your reasoning.",
}
_HOW_SEVERAL: dict[AnswerFormat, str] = {
    "label": "Answer with every label that fits.",
    "reasoning, label": "Give your reasoning, then every label that fits.",
    "label, reasoning": "Give every label that fits, then your reasoning.",
    "label, reasoning, label": "Give a first guess of every label that fits, then your reasoning, then the labels.",
    "reasoning": "Give your reasoning.",
}
"""Where a text may have several labels."""


_WHY: dict[ReasoningPrompt, str] = {
    "steps": "Explain in a sentence or two, step by step, what leads from the question to the answer.",
    "words": "Name the words that show the answer, and say in a sentence what they show.",
    "contrast": "Explain in a sentence or two what shows the answer, and why the nearest other choice does not fit.",
    "sentence": "Explain in one sentence why this is the answer.",
}
_EACH = " If the answer is several labels, take up each of them."


@dataclass(frozen=True)
class Piece:
    """A stretch of a user message. `given` marks text that the user gave: it never becomes a control token."""

    text: str
    given: bool = False


@dataclass(frozen=True)
class Prompt:
    """One row's user message, and the constant text that the answer starts with.

    `prefix` is the same for every row of a task. `text` is the row's own, and the only piece that may be trimmed.
    `tail` is what follows it in the message: more of the row's own.
    """

    prefix: tuple[Piece, ...]
    text: str
    tail: tuple[Piece, ...] = ()
    answer_start: str = ""

    @property
    def message(self) -> str:
        """The whole user message as text, for a server that applies its own chat template."""
        return "".join(piece.text for piece in (*self.prefix, Piece(self.text), *self.tail))


def rgen_prompt(
    question: str,
    answer: str,
    asked: ReasoningPrompt = "steps",
    examples: Sequence[Piece] = (),
    *,
    several: bool = False,
) -> Prompt:
    """R-Gen's prompt: a question and its answer, asking for the reasoning between them (stage 1, (Q, A) → R). Questions
    whose reasoning is shown come before it. `several`: an answer may be several labels."""
    why = _WHY[asked] + (_EACH if several else "")
    prefix = (Piece(f"{why}\n\n"), *examples, Piece("Question: ")) if examples else (Piece(f"{why}\n\nQuestion: "),)
    return Prompt(prefix=prefix, text=question, tail=(Piece("\nAnswer: "), Piece(answer, given=True)))


def question_of(labels: Sequence[str], instruction: str) -> str:
    """What a labelled row asks, as R-Gen reads it: the instruction, the choices, and room for the text."""
    return f"{instruction} Choices: {', '.join(labels)}. Text: "


@dataclass(frozen=True)
class ReasonedText:
    """A labelled text with its reasoning, which R-Gen's prompt shows as an example."""

    text: str
    label: str
    reasoning: str


@dataclass(frozen=True)
class LabelQuestion:
    """What R-Gen is asked about all rows of a task: the label set, the question that a label answers, how a reasoning
    is asked for, examples of it, and whether a text may have several labels."""

    labels: Sequence[str]
    instruction: str
    asked: ReasoningPrompt = "steps"
    examples: tuple[ReasonedText, ...] = ()
    several: bool = False

    def of_row(self, text: str, label: str) -> Prompt:
        """For a labelled row. Differs from `of_triple` only in that the choices belong to the prefix."""
        base = self.of_triple("", label)
        return Prompt(prefix=(*base.prefix, Piece(self._question(), given=True)), text=text, tail=base.tail)

    def of_triple(self, question: str, answer: str) -> Prompt:
        """For a question of any kind and its answer."""
        return rgen_prompt(question, answer, self.asked, self._shown, several=self.several)

    def _question(self) -> str:
        return question_of(self.labels, self.instruction)

    @cached_property
    def _shown(self) -> list[Piece]:
        """The examples as every row's prompt shows them."""
        pieces: list[Piece] = []
        for example in self.examples:
            pieces += (Piece("Question: "), Piece(self._question() + example.text, given=True))
            pieces += (Piece("\nAnswer: "), Piece(example.label, given=True))
            pieces += (Piece(f"{REASONING} "), Piece(example.reasoning, given=True), Piece("\n\n"))
        return pieces


def answer_format(arm: Arm) -> AnswerFormat:
    """What an arm's prompt for a label asks for."""
    formats: dict[Arm, AnswerFormat] = {
        "qra": "reasoning, label",
        "qar": "label, reasoning",
        "qarqa": "label, reasoning, label",
        "curriculum": "reasoning, label",
    }
    return "reasoning, label" if arm in CONTROLS else formats.get(arm, "label")


def reasons_first(arm: Arm) -> bool:
    """Whether the label that an arm is measured by waits for a reasoning."""
    return arm != "curriculum" and answer_format(arm).endswith("reasoning, label")


def writes_reasoning(arm: Arm) -> bool:
    """Whether an arm can write a reasoning, before its label or behind it."""
    return arm not in ("qa", "curriculum")


def answers_twice(arm: Arm) -> bool:
    """Whether an arm also gives a label before its reasoning, which then follows from it."""
    return answer_format(arm) == "label, reasoning, label"


def classifier_prompt(
    text: str, labels: Mapping[str, str], instruction: str, asked: AnswerFormat, *, several: bool = False
) -> Prompt:
    """The classifier's prompt: instruction and labels, then the text alone. `labels` maps names to descriptions.
    `several`: a text may have several of them.

    The prefix is one piece that ends in a line break. A program that tokenises the whole prompt as one string, as
    Ollama does, therefore gets the ids that were trained, unless a text begins with a line break or spells out a
    control token."""
    listed = ", ".join(f"{name} ({what})" if what else name for name, what in labels.items())
    how = (_HOW_SEVERAL if several else _HOW)[asked]
    prefix = Piece(f"{instruction} {how}\nLabels: {listed}\n\nText:\n", given=True)
    return Prompt(prefix=(prefix,), text=text, answer_start=DELIMITER.lstrip("\n") if asked.startswith("label") else "")


def label_text(label: str) -> str:
    """A label as it is written after the delimiter. The space belongs to it (arXiv:2502.14969)."""
    return f" {label}"
