"""The engine protocol: labelled texts in, reasonings out as they are finished.

An engine knows nothing of journals, filters or choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from rir_mlx.backends.base import Sampling
from rir_mlx.types import FinishReason


@dataclass(frozen=True, slots=True)
class ReasoningRequest:
    """A labelled text that needs a reasoning. `key` names the request; the 63 bits of `seed` decide its random
    draws."""

    key: str
    text: str
    label: str
    seed: int


@dataclass(frozen=True, slots=True)
class GeneratedReasoning:
    """What an engine generated for the request `key`, and its length in tokens.

    finish_reason  `length` if it reached the limit
    control        whether a control token stands inside it
    trimmed        tokens of the request's text that were cut off to fit
    refused        why the engine generates nothing for this request
    failed         the error that this request, and only this request, kept causing
    """

    key: str
    text: str
    tokens: int
    finish_reason: FinishReason
    control: bool = False
    trimmed: int = 0
    refused: str = ""
    failed: str = ""


class Engine(Protocol):
    def identity(self) -> dict[str, str]:
        """The model, its revision and its adapter: what determines a reasoning besides the request and the sampling. It
        is part of every key and of every row."""
        ...

    def write(self, requests: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
        """Every request once, as it is finished. Takes only a few requests ahead, so that the caller can stop; those
        taken are finished. Raises an RirError if the engine fails."""
        ...

    def close(self) -> None: ...
