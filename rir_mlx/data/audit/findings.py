"""What an audit is given, and what it finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rir_mlx.data.rows import Row
from rir_mlx.types import Severity


@dataclass(frozen=True)
class Refused:
    """What loading would refuse: a row, or (row 0) the data as a whole."""

    part: str
    file: str
    number: int
    what: str


@dataclass(frozen=True)
class Material:
    """What is looked over: the rows of each part, the labels that the recipe names, and what reading could not use."""

    parts: Mapping[str, Sequence[Row]]
    named: Sequence[str] = ()
    refused: Sequence[Refused] = ()
    notes: Sequence[str] = ()
    spellings: Mapping[str, Counter[str]] = field(default_factory=dict)
    """How each label is spelled in the files, with counts."""


@dataclass(frozen=True)
class Ruler:
    """How texts are measured. `count` gives the tokens of each text alone; `room` says, arm by arm, how many of them
    fit into a prompt (not one: below 1); `control` are the spellings of the model's control tokens."""

    count: Callable[[Sequence[str]], Sequence[int]]
    room: Mapping[str, int]
    control: Sequence[str] = ()


@dataclass(frozen=True)
class Place:
    """Where a text stands: its part, its file and the number of its row there, 0 where it is not known."""

    part: str
    file: str
    row: int
    label: str


@dataclass(frozen=True)
class Example:
    """A text (its beginning), or what is wrong with a row; some of the places where it stands."""

    text: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Finding:
    """`count` rows (or texts, or labels), a line that says `what` about them, and the edit that helps."""

    name: str
    severity: Severity
    count: int
    what: str
    hint: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Lengths:
    """Tokens a text, over all rows. `trimmed` says, arm by arm, how many texts would be cut, and `room` to what."""

    p5: float
    p50: float
    p95: float
    p99: float
    max: int
    room: Mapping[str, int]
    trimmed: Mapping[str, int]


@dataclass(frozen=True)
class Balance:
    """How even the labels of the training rows are. `ratio`: largest to smallest. `entropy`: share of the most that so
    many labels can have (1: all alike). `majority`: what always saying the most frequent label gets right."""

    largest: str
    smallest: str
    ratio: float
    entropy: float
    majority: float


@dataclass(frozen=True)
class Audit:
    """What was found. `labels` counts the rows of each label in each part."""

    rows: Mapping[str, int]
    labels: Mapping[str, Mapping[str, int]]
    balance: Balance | None
    lengths: Lengths | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    unmeasured: str = ""
    """Why there are no lengths."""

    def of(self, *severities: Severity) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity in severities]
