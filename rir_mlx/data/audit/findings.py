"""What an audit is given, and what it finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from rir_mlx.data.labels.combinations import parts_of
from rir_mlx.data.rows import Row, chosen, labels_of
from rir_mlx.types import PARTS, Severity

LABELS_SHOWN = 6


@dataclass(frozen=True)
class Refused:
    """What loading would refuse: a row, or the data as a whole (row 0)."""

    part: str
    file: str
    number: int
    what: str
    sheet_row: int | None = None
    """Its row in a spreadsheet, if that is another number."""


@dataclass(frozen=True)
class Material:
    """What is checked: the rows of each part, the labels that the recipe names, and what could not be read. `skips`:
    training leaves out the refused rows instead of stopping."""

    parts: Mapping[str, Sequence[Row]]
    named: Sequence[str] = ()
    refused: Sequence[Refused] = ()
    notes: Sequence[str] = ()
    spellings: Mapping[str, Counter[str]] = field(default_factory=dict)
    """How each label is spelled in the files, with counts."""
    skips: bool = False
    drawn: Sequence[Row] | None = None
    """The training rows that `data.max_samples` leaves; None if it leaves all."""
    combined: bool = False
    """Whether a row may have several labels: its label is then a combination."""
    divided: bool = False
    """Whether a row's label may be divided."""
    undescribed: Collection[str] = ()
    """Those of the named labels without a description: `init` names every label, meant or not."""

    @property
    def several(self) -> bool:
        """Whether a row counts for several labels."""
        return self.combined or self.divided

    @property
    def read(self) -> dict[str, Sequence[Row]]:
        """The rows of every part."""
        return {part: self.parts.get(part, ()) for part in PARTS}

    def used(self) -> dict[str, Sequence[Row]]:
        """The rows of every part that training uses: where it skips bad rows, none with a label that is not named, or
        that no training row has."""
        if not self.skips:
            return self.read
        named = set(self.named) or set(chain.from_iterable(self.labels_of_each(self.read["train"])))
        return {
            part: chosen(rows, (at for at, labels in enumerate(self.labels_of_each(rows)) if named.issuperset(labels)))
            for part, rows in self.read.items()
        }

    def labels_of_each(self, rows: Sequence[Row]) -> Iterator[Sequence[str]]:
        """The labels of each row; without making the rows, where each has one."""
        return map(self.labels_of, rows) if self.several else ((label,) for label in labels_of(rows))

    def labels_of(self, row: Row) -> Sequence[str]:
        """The row's labels."""
        return [label for label, _ in row.shares] or (parts_of(row.label) if self.combined else [row.label])


@dataclass(frozen=True)
class Ruler:
    """How texts are measured. `count` gives the number of tokens of each text; `room` how many fit into the prompt of
    each arm and of R-Gen, below 1 if none does, where a row has `limit` tokens in all; `control` are the model's
    control tokens. `learned` is what an arm leaves for a text beside the longest reasoning that it learns: without any,
    no training begins."""

    count: Callable[[Sequence[str]], Sequence[int]]
    room: Mapping[str, int]
    control: Sequence[str] = ()
    limit: int = 512
    learned: Mapping[str, int] = field(default_factory=dict)

    @property
    def least(self) -> dict[str, int]:
        """The least room that each leaves for a text."""
        return {name: min(self.learned.get(name, room), room) for name, room in {**self.learned, **self.room}.items()}


@dataclass(frozen=True)
class Place:
    """Where a text occurs: its part, its file, and the number of its row there (0: unknown)."""

    part: str
    file: str
    row: int
    label: str


@dataclass(frozen=True)
class Example:
    """The beginning of a text, or what is wrong with a row, and some of the places where it occurs."""

    text: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Finding:
    """A finding about `count` rows, texts or labels: `what` was found, and the edit that helps."""

    name: str
    severity: Severity
    count: int
    what: str
    hint: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    refused: tuple[Refused, ...] = ()
    """All the rows that cannot be used, once each."""


def with_rows(labels: Mapping[str, int]) -> str:
    """The first labels with their rows: `'joy' (12), 'fear' (3), and 4 more`."""
    return first_of((f"{label!r} ({count:,})" for label, count in labels.items()), len(labels))


def first_of(each: Iterable[str], count: int) -> str:
    """The first `LABELS_SHOWN` of so many, and how many more there are."""
    more = f", and {count - LABELS_SHOWN:,} more" if count > LABELS_SHOWN else ""
    return ", ".join(islice(each, LABELS_SHOWN)) + more


@dataclass(frozen=True)
class Lengths:
    """Tokens per text, of all rows. `trimmed` is the number of texts that each arm cuts, `room` to which length."""

    p5: float
    p50: float
    p95: float
    p99: float
    max: int
    room: Mapping[str, int]
    trimmed: Mapping[str, int]


@dataclass(frozen=True)
class Balance:
    """How balanced the training labels are. `ratio`: rows of the largest label to those of the smallest. `entropy`:
    share of the largest possible (1: all equal). `majority`: the accuracy of always giving the most frequent label;
    None where a text may have several."""

    largest: str
    smallest: str
    ratio: float
    entropy: float
    majority: float | None


@dataclass(frozen=True)
class Audit:
    """The result. `labels` counts the rows of each label in each part."""

    rows: Mapping[str, int]
    labels: Mapping[str, Mapping[str, int]]
    balance: Balance | None
    lengths: Lengths | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    unmeasured: str = ""
    """Why lengths were not counted."""

    def of(self, *severities: Severity) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity in severities]
