"""What was decided about rows, in `review.jsonl` of the run: each decision a line, added at once, never changed.

A line names its row by id and text, so that it can be told from another row at the same place of a changed table.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from rir_mlx.data.rows import Row
from rir_mlx.errors import UserError
from rir_mlx.storage.shared_log import SharedLog
from rir_mlx.types import ReviewAction


@dataclass(frozen=True)
class Decision:
    """What was decided about a row.

    row        its id
    text       its text, and `was` its label in the table, when it was decided
    label      what its label is to be
    reasoning  the user's own reasoning, or R-Gen's that was accepted; None if there is none
    """

    row: str
    text: str
    was: str
    action: ReviewAction
    label: str
    reasoning: str | None = None

    @property
    def changes(self) -> bool:
        """Whether anything of it goes into a new table."""
        return self.action != "skip"


class Outdated(UserError):
    """The row was decided about elsewhere in the meantime."""


class ReviewLog:
    """The decisions of a run. May be used by several threads; other processes may add decisions at any time."""

    def __init__(self, path: Path) -> None:
        self._log, self._lock = SharedLog(path), threading.Lock()
        self._decisions: dict[str, list[Decision]] = defaultdict(list)
        self._versions: dict[str, int] = defaultdict(int)
        self._unknown = 0

    @property
    def unreadable(self) -> int:
        """Lines that this version does not read."""
        return self._log.unreadable + self._unknown

    def current(self) -> dict[str, Decision]:
        """The decision that counts for each row that has one, the latest first decided last."""
        with self._lock:
            self._refresh()
            return {row: found[-1] for row, found in self._decisions.items() if found}

    def version(self, row: str) -> int:
        """How many lines there are about a row: decisions and what was taken back."""
        with self._lock:
            self._refresh()
            return self._versions[row]

    def add(self, decision: Decision, seen: int) -> int:
        """Add a decision by somebody who has seen that version of the row. Returns the row's new version.

        Raises Outdated if there is a later one, and what writing raises."""
        return self._append(vars(decision), decision.row, seen)

    def undo(self, row: str, seen: int) -> int:
        """Take the latest decision about a row back. Raises as `add`, and UserError if there is none."""

        def decided() -> None:
            if not self._decisions[row]:
                raise UserError("There is no decision about this row to take back.")

        return self._append({"row": row, "action": "undo"}, row, seen, decided)

    def _append(self, values: Mapping[str, Any], row: str, seen: int, check: Any = lambda: None) -> int:
        def latest() -> None:
            self._refresh()
            if self._versions[row] != seen:
                raise Outdated("This row was decided about elsewhere in the meantime.")
            check()

        with self._lock:
            self._log.append({**values, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}, latest)
            self._refresh()
            return self._versions[row]

    def _refresh(self) -> None:
        records, other = self._log.new()
        if other:
            self._decisions.clear()
            self._versions.clear()
            self._unknown = 0
        for record in records:
            self._take(record)

    def _take(self, record: Mapping[str, Any]) -> None:
        row = record.get("row")
        if not isinstance(row, str):
            self._unknown += 1
        elif record.get("action") == "undo":
            self._versions[row] += 1
            if self._decisions[row]:
                self._decisions[row].pop()
        elif (decision := _decision_of(record)) is not None:
            self._versions[row] += 1
            self._decisions[row].append(decision)
        else:
            self._unknown += 1


def _decision_of(record: Mapping[str, Any]) -> Decision | None:
    """The decision of a line; None if it is none that this version reads."""
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


def matched(decisions: Iterable[Decision], rows: Iterable[Row]) -> Matched:
    """Find the rows of decisions in a table that may have changed since: by id and text, else by a text that only one
    row has. A row whose label was changed in the table since is not found."""
    by_id: dict[str, Row] = {}
    by_text: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_id[row.id] = row
        by_text[row.text].append(row)
    found: dict[str, Decision] = {}
    lost: list[Decision] = []
    elsewhere: list[Decision] = []
    for decision in decisions:
        same_id = by_id.get(decision.row)
        if same_id is None or same_id.text != decision.text:
            elsewhere.append(decision)
        elif same_id.label in (decision.was, decision.label):
            found[same_id.id] = decision
        else:
            lost.append(decision)
    moved = 0
    for decision in elsewhere:
        same = by_text.get(decision.text, [])
        if len(same) == 1 and same[0].id not in found and same[0].label in (decision.was, decision.label):
            found[same[0].id] = decision
            moved += 1
        else:
            lost.append(decision)
    return Matched(found, lost, moved)
