"""What an engine is: labelled texts in, reasonings out, as they are finished.

An engine knows nothing of journals, filters or choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rir_mlx.backends.base import Sampling
from rir_mlx.prompting.prompts import Prompt, rgen_row_prompt
from rir_mlx.types import FinishReason


@dataclass(frozen=True, slots=True)
class ReasoningRequest:
    """A reasoning to write for a labelled text. `key` names it; the 63 bits of `seed` decide its random draws."""

    key: str
    text: str
    label: str
    seed: int


@dataclass(frozen=True, slots=True)
class GeneratedReasoning:
    """What was written for the order `key`: its text and its length in tokens. `finish_reason` is `length` where it
    ran into the limit; `control`: a control token stands inside; `trimmed`: so many tokens of the order's text were cut
    off to fit; `refused`: why the engine writes nothing for it."""

    key: str
    text: str
    tokens: int
    finish_reason: FinishReason
    control: bool = False
    trimmed: int = 0
    refused: str = ""


@dataclass(frozen=True)
class LabelQuestion:
    """What every order of a job asks: the label set and the question that it answers."""

    labels: Sequence[str]
    instruction: str

    def prompt(self, order: ReasoningRequest) -> Prompt:
        return rgen_row_prompt(order.text, order.label, self.labels, self.instruction)


class Engine(Protocol):
    def identity(self) -> dict[str, str]:
        """The model, its revision and its adapter: what decides a text beside the order and the sampling. It is part
        of every key, and stands in every row."""
        ...

    def write(self, orders: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
        """Each order once, as they are finished. Orders are taken a few ahead of need, so that whoever gives them
        can stop: what was taken is still finished. Raises an RirError where the engine fails."""
        ...

    def close(self) -> None: ...
