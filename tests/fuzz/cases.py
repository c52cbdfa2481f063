"""What a fuzz case ends with, and the tally of many."""

from __future__ import annotations

import random
import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

Outcome = Literal["read", "refused"]


class Loss(AssertionError):
    """Something of the input is gone, or changed, without a word."""


class Kind(Protocol):
    """A kind of input: how one is made, read, and compared with what was in it."""

    name: str

    def attempt(self, rng: random.Random, folder: Path) -> Outcome:
        """Make an input in an empty folder and read it. Raises Loss if something is gone; any other error is a
        finding too."""
        ...


@dataclass(frozen=True)
class Finding:
    """A case that ended in a traceback or a loss. `number` and the seed of the run make it again."""

    kind: str
    number: int
    what: str


@dataclass
class Tally:
    """How the cases of a kind ended."""

    read: int = 0
    refused: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.read + self.refused + len(self.findings)


def fuzz(
    kinds: Sequence[Kind], numbers: range, *, seed: int, folder: Path, seconds: float = float("inf")
) -> dict[str, Tally]:
    """Try the cases of these numbers, the kinds in turn, as far as the time suffices."""
    tallies = {kind.name: Tally() for kind in kinds}
    end = time.monotonic() + seconds
    for number in numbers:
        if time.monotonic() > end:
            break
        kind = kinds[number % len(kinds)]
        place = folder / f"{kind.name}-{number}"
        place.mkdir(parents=True)
        tally = tallies[kind.name]
        try:
            outcome = kind.attempt(random.Random(f"{seed}/{number}"), place)
            tally.read += outcome == "read"
            tally.refused += outcome == "refused"
        except Loss as loss:
            tally.findings.append(Finding(kind.name, number, f"loss: {loss}"))
        except Exception:
            tally.findings.append(Finding(kind.name, number, traceback.format_exc(limit=-4)))
        else:
            shutil.rmtree(place)
    return tallies
