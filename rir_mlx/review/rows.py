"""The rows of a run as a reviewer meets them: what is known about each, and which are most worth a look.

A prediction is shown for validation and test rows alone. The classifier learned the training rows, so that it mostly
agrees with their labels, the wrong ones among them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rir_mlx.data.loading import LabelledData, load_labelled
from rir_mlx.data.rows import Row, Rows
from rir_mlx.data.same_text import normalised
from rir_mlx.recipe.schema import Recipe
from rir_mlx.review.decisions import RowIndex
from rir_mlx.storage.atomic import read_records
from rir_mlx.storage.layout import RunDir
from rir_mlx.types import PARTS, Arm, Part, ReviewFilter

UNSURE = 0.6
"""A prediction with a lower probability is unsure."""
_BEST = 5
_HINT = "Delete it, and run `rir-mlx augment` or `rir-mlx evaluate` again: they write it anew."
_Found = TypeVar("_Found")


class Seen(NamedTuple):
    """What the classifier answered to a row that it was not trained on: the `best` labels with their probabilities, and
    the probability `of_label` of the row's own label."""

    best: tuple[tuple[str, float], ...]
    of_label: float
    reasoning: str | None

    @property
    def predicted(self) -> str:
        return self.best[0][0]

    @property
    def probability(self) -> float:
        return self.best[0][1]


class Rejected(NamedTuple):
    """A reasoning that a filter rejected, and which one."""

    why: str
    reasoning: str


@dataclass
class ReviewRow:
    """A row of the run.

    reasoning  the user's own, or the one of R-Gen's that was kept; None if there is none
    own        whether it is the user's own
    rejected   the reasonings that were rejected
    same       ids of other rows with the same text, and `conflict`: whether their labels differ
    worth      how much the row is worth a look, see `worth_of`
    """

    row: Row
    part: Part
    reasoning: str | None = None
    own: bool = False
    rejected: list[Rejected] = field(default_factory=list)
    seen: Seen | None = None
    same: tuple[str, ...] = ()
    conflict: bool = False
    worth: float = 0.0

    @property
    def disagrees(self) -> bool:
        return self.seen is not None and self.seen.predicted != self.row.label

    def passes(self, wanted: ReviewFilter) -> bool:
        """Whether the row is one of these.

        disagree    the classifier predicts another label
        unsure      its prediction has a probability below 0.6
        rejected    a reasoning of the row was rejected, or none was kept
        duplicates  another row has the same text, as `check` tells them
        conflicts   another row has the same text and another label
        """
        match wanted:
            case "all":
                return True
            case "disagree":
                return self.disagrees
            case "unsure":
                return self.seen is not None and self.seen.probability < UNSURE
            case "rejected":
                return bool(self.rejected)
            case "duplicates":
                return bool(self.same)
            case "conflicts":
                return self.conflict


def worth_of(row: ReviewRow) -> float:
    """How much a row is worth a look, from 0 to 3: first where the classifier is sure of another label (2 + how much
    surer), then contradictions (1.9), unsure predictions (1 to 1.9), rows without a reasoning that was kept (0.9), with
    a rejected one (0.5), and copies (0.4)."""
    worths = [0.0]
    if row.seen is not None and row.disagrees:
        worths.append(2 + row.seen.probability - row.seen.of_label)
    if row.conflict:
        worths.append(1.9)
    if row.seen is not None and row.passes("unsure"):
        worths.append(1 + 0.9 * (1 - row.seen.probability))
    if row.rejected:
        worths.append(0.9 if row.reasoning is None else 0.5)
    if row.same:
        worths.append(0.4)
    return max(worths)


class ReviewRows:
    """All rows of a run, the one that is most worth a look first. `arm` names whose predictions they have.

    Raises DataError if the table cannot be read any more, UserError for a damaged file of the run."""

    def __init__(self, run: RunDir, recipe: Recipe, arm: Arm) -> None:
        data = load_labelled(recipe.data, recipe.seed)
        self.labels = list(data.combinations or data.labels)
        if recipe.data.no_label is not None and recipe.data.no_label not in self.labels:  # a row may be the first
            self.labels.append(recipe.data.no_label)
        self.arm = arm
        self.rows = [ReviewRow(row, part, row.reasoning, row.reasoning is not None) for part, row in rows_of(data)]
        self._by_id = {found.row.id: found for found in self.rows}
        self.index = RowIndex(found.row for found in self.rows)
        self.unknown = 0
        """Lines of the run's files that are about rows which the table no longer has."""
        self._add_reasonings(run)
        self._add_predictions(run)
        _add_same_texts(self.rows)
        for found in self.rows:
            found.worth = worth_of(found)
        self.rows.sort(key=lambda found: -found.worth)
        self._places = {found.row.id: place for place, found in enumerate(self.rows)}
        done = run.classifier(arm).done()
        self.changed = done is not None and done["inputs"].get("data") != data.digest
        """Whether the table is another one than the classifier was trained on."""

    def __getitem__(self, row: str) -> ReviewRow:
        """The row with that id. Raises KeyError if there is none."""
        return self._by_id[row]

    def place(self, row: str) -> int:
        """Where in `rows` the row with that id stands. Raises KeyError if there is none."""
        return self._places[row]

    def __contains__(self, row: str) -> bool:
        return row in self._by_id

    def counts(self, filters: Sequence[ReviewFilter]) -> dict[str, int]:
        """How many rows pass each filter."""
        return {wanted: sum(found.passes(wanted) for found in self.rows) for wanted in filters}

    def _known(self, path: Path, convert: Callable[[dict[str, Any]], _Found]) -> Iterator[tuple[ReviewRow, _Found]]:
        """What `convert` makes of a file's records whose row is in the table, with that row."""
        if not path.is_file():
            return

        def named(record: dict[str, Any]) -> tuple[str, str, _Found]:
            return _string(record, "id"), _string(record, "text"), convert(record)

        for row, text, converted in read_records(path, named, _HINT):
            found = self._by_id.get(row)
            if found is not None and found.row.text == text:
                yield found, converted
            else:
                self.unknown += 1

    def _add_reasonings(self, run: RunDir) -> None:
        for part in PARTS[:2]:
            for found, (label, reasoning) in self._known(run.augmented_rows(part), _reasoned):
                if not found.own and found.row.label == label:
                    found.reasoning = reasoning
        for found, rejected in self._known(run.rejected_rows, _rejected):
            found.rejected.append(rejected)

    def _add_predictions(self, run: RunDir) -> None:
        for path in (run.predictions(self.arm), run.validation_predictions(self.arm)):
            for found, predicted in self._known(path, Predicted.of):
                best = sorted(predicted.probabilities.items(), key=lambda pair: -pair[1])[:_BEST]
                found.seen = Seen(tuple(best), predicted.probabilities.get(found.row.label, 0.0), predicted.reasoning)


class Predicted(NamedTuple):
    """A line of a run's predictions."""

    label: str
    predicted: str
    probabilities: dict[str, float]
    reasoning: str | None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Predicted:
        """Raises KeyError or ValueError if the record is none."""
        shares = record["probabilities"]
        if not isinstance(shares, dict) or not shares or not all(isinstance(x, float | int) for x in shares.values()):
            raise ValueError("its probabilities are no object of numbers")
        reasoning = record.get("reasoning")
        return cls(
            _string(record, "label"),
            _string(record, "predicted"),
            shares,
            None if reasoning is None else _string(record, "reasoning"),
        )


def _string(record: Mapping[str, Any], key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise ValueError(f"its {key} is no string")
    return value


def _reasoned(record: Mapping[str, Any]) -> tuple[str, str]:
    return _string(record, "label"), _string(record, "reasoning")


def _rejected(record: Mapping[str, Any]) -> Rejected:
    return Rejected(_string(record, "rejected"), _string(record, "reasoning"))


def predictions_of(path: Path) -> Iterator[Predicted]:
    """A run's predictions. Raises UserError for a damaged file."""
    return read_records(path, Predicted.of, _HINT)


def rows_of(data: LabelledData) -> Iterator[tuple[Part, Row]]:
    """Each row with its part."""
    parts: dict[Part, Rows] = {"train": data.train, "validation": data.validation, "test": data.test}
    for part, rows in parts.items():
        for row in rows:
            yield part, row


def files_read(run: RunDir, arm: Arm) -> list[Path]:
    """The files of a run that its rows are made from, beside the table."""
    parts = [run.augmented_rows(part) for part in PARTS[:2]]
    return [*parts, run.rejected_rows, run.predictions(arm), run.validation_predictions(arm)]


def _add_same_texts(rows: Iterable[ReviewRow]) -> None:
    groups: dict[str, list[ReviewRow]] = defaultdict(list)
    for found in rows:
        groups[normalised(found.row.text)].append(found)
    for group in groups.values():
        if len(group) > 1:
            conflict = len({found.row.label for found in group}) > 1
            for found in group:
                found.same = tuple(other.row.id for other in group if other is not found)
                found.conflict = conflict
