"""The review of a run over HTTP: pages of rows, a row with all that is known of it, and decisions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, model_validator

from rir_mlx.data.cells import checked_text
from rir_mlx.data.tables.row_streams import stamp
from rir_mlx.review.decisions import Decision, Outdated, ReviewLog, matched
from rir_mlx.review.rows import ReviewRow, ReviewRows, files_read
from rir_mlx.serving.http import Refused
from rir_mlx.serving.workbench.arms import ServedRun
from rir_mlx.types import PARTS, Part, ReviewAction, ReviewFilter, ReviewState

_CUT, _MOST, _TWINS = 240, 200, 10
_ID = 200


class RowsRequest(BaseModel):
    """Which rows, and how many from which on."""

    filter: ReviewFilter = "all"
    state: ReviewState = "all"
    part: Part | None = None
    label: str | None = None
    search: str = Field(default="", max_length=500)
    offset: int = Field(default=0, ge=0)
    limit: int = Field(default=50, ge=1, le=_MOST)


class RowRequest(BaseModel):
    id: str = Field(max_length=_ID)


class UndoRequest(BaseModel):
    """`seen` is the row's version that the reviewer saw."""

    row: str = Field(max_length=_ID)
    seen: int = Field(ge=0)


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
        with self._lock:
            stamps = self._stamps_now()
            if self._rows is None or self._stamps != stamps:
                self._rows = ReviewRows(self.source.run, self.source.recipe, self.source.arm)
                self._stamps = stamps
            return self._rows

    def _stamps_now(self) -> list[tuple[int, ...] | None]:
        section = self.source.recipe.data
        sources = [source.path for source in (section.train, section.validation, section.test) if source is not None]
        paths = [*map(Path, sources), *files_read(self.source.run, self.source.arm)]
        return [stamp(path) if path.is_file() else None for path in paths]

    def overview(self) -> dict[str, Any]:
        """What the page shows around the rows."""
        rows, decisions = self.rows(), self.log.current()
        found = matched(decisions.values(), (entry.row for entry in rows.rows))
        return {
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
        decisions = self._decisions()
        found = [entry for entry in self.rows().rows if _is_wanted(entry, asked, decisions.get(entry.row.id))]
        shown = found[asked.offset : asked.offset + asked.limit]
        return {"total": len(found), "rows": [_line(entry, decisions.get(entry.row.id)) for entry in shown]}

    def row(self, asked: RowRequest) -> dict[str, Any]:
        """All that is known of a row. Raises Refused if there is none of that id."""
        entry, rows, decisions = self._entry(asked.id), self.rows(), self._decisions()
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
            "version": self.log.version(row.id),
        }

    def decide(self, asked: DecideRequest) -> dict[str, Any]:
        """Save a decision. Raises Refused if it does not fit the row, or the row was decided about meanwhile."""
        entry = self._entry(asked.row)
        if asked.label not in self.rows().labels:
            raise Refused(422, f"{asked.label[:60]!r} is not one of the run's labels.", param="label")
        if entry.part == "test" and asked.reasoning is not None:
            raise Refused(422, "Nothing is trained on test rows: they get no reasoning.", param="reasoning")
        row = entry.row
        decision = Decision(row.id, row.text, row.label, asked.action, asked.label, asked.reasoning)
        try:
            self.log.add(decision, asked.seen)
        except Outdated as error:
            raise Refused(409, str(error)) from error
        return self.row(RowRequest(id=row.id))

    def undo(self, asked: UndoRequest) -> dict[str, Any]:
        """Take the latest decision about a row back. Raises as `decide`."""
        self._entry(asked.row)
        try:
            self.log.undo(asked.row, asked.seen)
        except Outdated as error:
            raise Refused(409, str(error)) from error
        return self.row(RowRequest(id=asked.row))

    def _decisions(self) -> Mapping[str, Decision]:
        """The decisions by row. One about a row that has changed since is none about the row that is there now."""
        rows = self.rows()
        return {
            row: decision
            for row, decision in self.log.current().items()
            if row in rows and rows[row].row.text == decision.text
        }

    def _entry(self, row: str) -> ReviewRow:
        rows = self.rows()
        if row not in rows:
            raise Refused(404, "The table has no such row; it may have changed.", param="row")
        return rows[row]


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
        "text": row.text[:_CUT] + ("…" if len(row.text) > _CUT else ""),
        "label": row.label,
        "predicted": seen.predicted if seen else None,
        "probability": round(seen.probability, 4) if seen else None,
        "flags": [wanted for wanted in get_args(ReviewFilter)[1:] if entry.passes(wanted)],
        "decided": decided,
    }
