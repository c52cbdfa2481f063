"""What was decided about rows, in `review.jsonl` of the run: each decision a line, added at once, never changed.

A line names its row by id and text, so that it can be told from another row at the same place of a changed table.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from rir_mlx.data.rows import Row
from rir_mlx.errors import UserError
from rir_mlx.storage.shared_log import SharedLog
from rir_mlx.types import ReviewAction


class RowKey(NamedTuple):
    """What a decision is about: a row's id, and its text when it was decided. Where rows were added to a table, another
    row may have the id now; the two are then told apart by their texts."""

    row: str
    text: str


@dataclass(frozen=True)
class Decision:
    """What was decided about a row.

    row        its id
    text       its text, and `was` its label in the table, when it was decided
    label      what its label is to be
    reasoning  the user's own reasoning, or R-Gen's that was accepted; None if the row is to have none
    """

    row: str
    text: str
    was: str
    action: ReviewAction
    label: str
    reasoning: str | None = None

    @property
    def key(self) -> RowKey:
        return RowKey(self.row, self.text)

    @property
    def changes(self) -> bool:
        """Whether a new table gets its label and reasoning."""
        return self.action != "skip"


class Outdated(UserError):
    """Somebody else decided the row meanwhile."""


class ReviewLog:
    """The decisions of a run. May be used by several threads; other processes may add decisions at any time."""

    def __init__(self, path: Path) -> None:
        self._log, self._lock = SharedLog(path), threading.Lock()
        self._decisions: dict[RowKey, list[Decision]] = {}
        self._versions: Counter[RowKey] = Counter()
        self._of_text: Counter[str] = Counter()
        self._unknown = 0

    @property
    def unreadable(self) -> int:
        """Lines that this version does not read."""
        return self._log.unreadable + self._unknown

    def current(self) -> list[Decision]:
        """The decision that counts for each row that has one, in the order in which they were made or came back."""
        with self._lock:
            self._refresh()
            return [found[-1] for found in self._decisions.values() if found]

    def version(self, key: RowKey, *, anywhere: bool = False) -> int:
        """How many lines there are about a row: decisions and what was taken back. With `anywhere`, those about its
        text, whichever row had it."""
        with self._lock:
            self._refresh()
            return self._version(key, anywhere)

    def add(self, decision: Decision, seen: int, *, anywhere: bool = False) -> int:
        """Add a decision by somebody who has seen that version of the row. Returns the row's new version.

        Raises Outdated if there is a later one, and what writing raises."""

        def latest() -> None:
            self._check(decision.key, seen, anywhere)

        return self._append(vars(decision), decision.key, latest, anywhere)

    def undo(self, key: RowKey, seen: int, *, anywhere: bool = False) -> int:
        """Take the latest decision about a row back. Raises as `add`, and UserError if there is none."""

        def decided() -> None:
            self._check(key, seen, anywhere)
            if not self._decisions.get(key):
                raise UserError("There is no decision about this row to take back.")

        return self._append(key._asdict() | {"action": "undo"}, key, decided, anywhere)

    def _version(self, key: RowKey, anywhere: bool) -> int:
        return self._of_text[key.text] if anywhere else self._versions[key]

    def _check(self, key: RowKey, seen: int, anywhere: bool) -> None:
        self._refresh()
        if self._version(key, anywhere) != seen:
            raise Outdated("Somebody else decided this row meanwhile.")

    def _append(self, values: Mapping[str, Any], key: RowKey, check: Callable[[], None], anywhere: bool) -> int:
        with self._lock:
            self._log.append({**values, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}, check)
            self._refresh()
            return self._version(key, anywhere)

    def _refresh(self) -> None:
        records, other = self._log.new()
        if other:
            self._decisions.clear()
            self._versions.clear()
            self._of_text.clear()
            self._unknown = 0
        for record in records:
            self._take(record)

    def _take(self, record: Mapping[str, Any]) -> None:
        decision = _decision_of(record)
        key = decision.key if decision is not None else self._undone(record)
        if key is None:
            self._unknown += 1
            return
        self._versions[key] += 1
        self._of_text[key.text] += 1
        found = self._decisions.pop(key, [])
        if decision is not None:
            found.append(decision)
        elif found:
            found.pop()
        self._decisions[key] = found  # at the end: what changed last comes last

    def _undone(self, record: Mapping[str, Any]) -> RowKey | None:
        """Which row's decision a line takes back; None if it takes none back."""
        row, text = record.get("row"), record.get("text")
        if not isinstance(row, str) or record.get("action") != "undo":
            return None
        if isinstance(text, str):
            return RowKey(row, text)
        # A line without a text is about the row of that id that was decided last.
        return next((key for key in reversed(self._decisions) if key.row == row), None)


def _decision_of(record: Mapping[str, Any]) -> Decision | None:
    """The decision of a line; None if the line holds none that this version reads."""
    values: Any = {name: record.get(name) for name in ("row", "text", "was", "action", "label", "reasoning")}
    strings = (values["text"], values["was"], values["label"])
    if not all(isinstance(value, str) for value in strings) or values["action"] not in get_args(ReviewAction):
        return None
    if not isinstance(values["reasoning"], str | None):
        return None
    return Decision(**values)


class Matched(NamedTuple):
    """Decisions by the id of the row that they are about now, and those whose rows are not to be found."""

    by_row: dict[str, Decision]
    lost: list[Decision]
    moved: int
    """How many were found at another place, by their text."""


class RowIndex:
    """The rows of a table, which may have changed since rows of it were decided, by id and by text."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._by_id: dict[str, Row] = {}
        self._by_text: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            self._by_id[row.id] = row
            self._by_text[row.text].append(row)

    def has_once(self, text: str) -> bool:
        """Whether exactly one row has the text."""
        return len(self._by_text.get(text, ())) == 1

    def match(self, decisions: Iterable[Decision]) -> Matched:
        """Find the rows of decisions, which come in the order in which they were made: by id and text, else by a text
        that only one row has. Of several decisions about a row the latest counts. A row whose label was changed in the
        table since is not found."""
        found: dict[str, Decision] = {}
        lost: list[Decision] = []
        moved = 0
        for decision in reversed(list(decisions)):
            row = self._row_of(decision)
            if row is None or row.label not in (decision.was, decision.label):
                lost.append(decision)
            elif row.id not in found:
                found[row.id] = decision
                moved += row.id != decision.row
        return Matched(found, lost[::-1], moved)

    def _row_of(self, decision: Decision) -> Row | None:
        row = self._by_id.get(decision.row)
        if row is not None and row.text == decision.text:
            return row
        same = self._by_text.get(decision.text, [])
        return same[0] if len(same) == 1 else None
