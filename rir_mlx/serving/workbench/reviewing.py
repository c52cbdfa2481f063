"""The review of a run over HTTP: pages of rows, a row with all that is known of it, and decisions."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, model_validator

from rir_mlx.classification.exported import ExportedRun
from rir_mlx.data.cells import checked_text
from rir_mlx.data.tables.row_streams import stamp
from rir_mlx.data.tables.sources import files_of
from rir_mlx.progress import shortened
from rir_mlx.review.decisions import Decision, Outdated, ReviewLog, RowKey
from rir_mlx.review.rows import ReviewRow, ReviewRows, files_read
from rir_mlx.serving.http import Refused
from rir_mlx.serving.workbench.arms import ServedRun
from rir_mlx.storage.digests import digest_of
from rir_mlx.types import PARTS, Part, ReviewAction, ReviewFilter, ReviewState

_CUT, _MOST, _TWINS = 240, 200, 10
_ID = 200


class RowsRequest(BaseModel):
    """Which rows, and how many: those behind the row `after`, else from the one at `offset` on. Rows that are decided
    may leave a list while it is read; their place among the others stays."""

    filter: ReviewFilter = "all"
    state: ReviewState = "all"
    part: Part | None = None
    label: str | None = None
    search: str = Field(default="", max_length=500)
    after: str | None = Field(default=None, max_length=_ID)
    offset: int = Field(default=0, ge=0)
    limit: int = Field(default=50, ge=1, le=_MOST)


class RowRequest(BaseModel):
    id: str = Field(max_length=_ID)


class UndoRequest(BaseModel):
    """`seen` is the row's version that the reviewer saw, and `digest` that of its text and label: another row may have
    the id by now."""

    row: str = Field(max_length=_ID)
    seen: int = Field(ge=0)
    digest: str = Field(max_length=_ID)


class DecideRequest(UndoRequest):
    """A decision about a row."""

    action: ReviewAction
    label: str
    reasoning: str | None = Field(default=None, max_length=20_000)

    @model_validator(mode="after")
    def _reasoning_is_a_text(self) -> DecideRequest:
        if self.reasoning is not None:
            checked_text(self.reasoning, "reasoning")
        return self


class Reviewing:
    """The rows of the run that is served, and its decisions. May be used by several threads."""

    def __init__(self, source: ServedRun) -> None:
        self.source, self.log = source, ReviewLog(source.run.review)
        self._lock = threading.Lock()
        self._rows: ReviewRows | None = None
        self._stamps: list[tuple[int, ...] | None] = []

    def rows(self) -> ReviewRows:
        """The rows, read again if a file changed. Raises what reading them raises."""
        if isinstance(self.source.run, ExportedRun):
            raise Refused(404, "An export holds no rows to review: serve the run that it comes from.")
        with self._lock:
            stamps = self._stamps_now()
            if self._rows is None or self._stamps != stamps:
                self._rows = ReviewRows(self.source.run, self.source.recipe, self.source.arm)
                self._stamps = stamps
            return self._rows

    def _stamps_now(self) -> list[tuple[int, ...] | None]:
        section = self.source.recipe.data
        sources = [source for source in (section.train, section.validation, section.test) if source is not None]
        paths = [path for source in sources for path in files_of(source)]
        paths += files_read(self.source.run, self.source.arm)
        return [stamp(path) if path.is_file() else None for path in paths]

    def overview(self) -> dict[str, Any]:
        """What the page shows around the rows."""
        rows = self.rows()
        found = rows.index.match(self.log.current())
        return {
            "run": digest_of(str(self.source.run.folder.resolve())),
            "arm": rows.arm,
            "labels": list(rows.labels),
            "counts": rows.counts(get_args(ReviewFilter)),
            "parts": {part: sum(entry.part == part for entry in rows.rows) for part in PARTS},
            "decided": len(found.by_row),
            "lost": len(found.lost),
            "changed": rows.changed,
            "unreadable": self.log.unreadable,
        }

    def page(self, asked: RowsRequest) -> dict[str, Any]:
        """Some of the rows, those that are most worth a look first, and how many there are."""
        rows = self.rows()
        decisions = self._decisions(rows)
        places = [
            place for place, entry in enumerate(rows.rows) if _is_wanted(entry, asked, decisions.get(entry.row.id))
        ]
        offset = asked.offset
        if asked.after is not None and asked.after in rows:
            offset = bisect_right(places, rows.place(asked.after))
        shown = [rows.rows[place] for place in places[offset : offset + asked.limit]]
        lines = [_line(entry, decisions.get(entry.row.id)) for entry in shown]
        return {"total": len(places), "offset": offset, "rows": lines}

    def row(self, asked: RowRequest) -> dict[str, Any]:
        """All that is known of a row. Raises Refused if there is none of that id."""
        rows = self.rows()
        entry, decisions = _entry(rows, asked.id), self._decisions(rows)
        row, seen = entry.row, entry.seen
        twins = [rows[other] for other in entry.same[:_TWINS] if other in rows]
        return {
            **_line(entry, decisions.get(row.id)),
            "text": row.text,
            "place": f"{Path(row.file).name}, row {row.number}",
            "reasoning": entry.reasoning,
            "own": entry.own,
            "rejected": [rejected._asdict() for rejected in entry.rejected],
            "best": seen.best if seen else [],
            "thought": seen.reasoning if seen else None,
            "same": [_line(twin, decisions.get(twin.row.id)) for twin in twins],
            "digest": _digest(entry),
            "version": self.log.version(_key(entry), anywhere=rows.index.has_once(row.text)),
        }

    def decide(self, asked: DecideRequest) -> dict[str, Any]:
        """Save a decision. Raises Refused if it does not fit the row, the row is another one than was seen, or somebody
        decided it meanwhile."""
        rows = self.rows()
        entry = _entry_seen(rows, asked)
        if asked.label not in rows.labels:
            raise Refused(422, f"{asked.label[:60]!r} is not one of the run's labels.", param="label")
        if entry.part == "test" and asked.reasoning is not None:
            raise Refused(422, "Nothing is trained on test rows: they get no reasoning.", param="reasoning")
        row = entry.row
        decision = Decision(row.id, row.text, row.label, asked.action, asked.label, asked.reasoning)
        try:
            self.log.add(decision, asked.seen, anywhere=rows.index.has_once(row.text))
        except Outdated as error:
            raise Refused(409, str(error)) from error
        return self.row(RowRequest(id=row.id))

    def undo(self, asked: UndoRequest) -> dict[str, Any]:
        """Take the latest decision about a row back. Raises as `decide`."""
        rows = self.rows()
        entry = _entry_seen(rows, asked)
        decision = self._decisions(rows).get(asked.row)
        key = decision.key if decision is not None else _key(entry)
        try:
            self.log.undo(key, asked.seen, anywhere=rows.index.has_once(entry.row.text))
        except Outdated as error:
            raise Refused(409, str(error)) from error
        return self.row(RowRequest(id=asked.row))

    def _decisions(self, rows: ReviewRows) -> Mapping[str, Decision]:
        """The decisions by the id of the row that they are about now."""
        return rows.index.match(self.log.current()).by_row


def _entry(rows: ReviewRows, row: str) -> ReviewRow:
    if row not in rows:
        raise Refused(404, "The table has no such row; it may have changed.", param="row")
    return rows[row]


def _entry_seen(rows: ReviewRows, asked: UndoRequest) -> ReviewRow:
    """The row that a reviewer saw. Raises Refused if another one has its id now, or if it has another label."""
    entry = _entry(rows, asked.row)
    if _digest(entry) != asked.digest:
        raise Refused(409, "The table has changed: another text or label stands in this row now.", param="row")
    return entry


def _key(entry: ReviewRow) -> RowKey:
    return RowKey(entry.row.id, entry.row.text)


def _digest(entry: ReviewRow) -> str:
    return digest_of([entry.row.text, entry.row.label])


def _is_wanted(entry: ReviewRow, asked: RowsRequest, decision: Decision | None) -> bool:
    search = asked.search.casefold()
    return (
        entry.passes(asked.filter)
        and (asked.part is None or entry.part == asked.part)
        and (asked.label is None or asked.label in (entry.row.label, decision and decision.label))
        and (asked.state == "all" or (asked.state == "done") == (decision is not None))
        and (not search or search in entry.row.text.casefold() or search in (entry.reasoning or "").casefold())
    )


def _line(entry: ReviewRow, decision: Decision | None) -> dict[str, Any]:
    """A row as a list shows it."""
    row, seen = entry.row, entry.seen
    decided = None
    if decision is not None:
        decided = {"action": decision.action, "label": decision.label, "reasoning": decision.reasoning}
    return {
        "id": row.id,
        "part": entry.part,
        "text": shortened(row.text, _CUT),
        "label": row.label,
        "predicted": seen.predicted if seen else None,
        "probability": round(seen.probability, 4) if seen else None,
        "flags": [wanted for wanted in get_args(ReviewFilter)[1:] if entry.passes(wanted)],
        "decided": decided,
    }
