"""The rows and reasoning triples of a recipe, read when they are first needed, and the reasonings written for rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from rir_mlx.data.loading import LabelledData, TripleData, load_labelled, load_triples
from rir_mlx.data.rows import Row
from rir_mlx.errors import UserError
from rir_mlx.progress import Progress
from rir_mlx.recipe.schema import Recipe
from rir_mlx.storage.atomic import read_jsonl
from rir_mlx.storage.digests import digest_of


class RunData:
    """A recipe's data. `warned` says whether the user has been told what the audit found in the rows."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self.recipe, self.progress = recipe, progress
        self.warned = False

    @cached_property
    def labelled(self) -> LabelledData:
        """The labelled rows. Raises DataError with all faults of all files."""
        data = load_labelled(self.recipe.data, self.recipe.seed)
        self._say(data.notes)
        return data

    @cached_property
    def triples(self) -> TripleData:
        """What R-Gen learns from. Raises DataError with all faults of all files."""
        triples = load_triples(self.recipe.reasoning, self.recipe.seed)
        self._say(triples.notes)
        return triples

    def _say(self, notes: Iterable[str]) -> None:
        for note in notes:
            self.progress.say(f"note: {note}")

    @property
    def labels(self) -> dict[str, str]:
        """Descriptions by label."""
        return self.labelled.labels

    @property
    def train(self) -> tuple[Row, ...]:
        return self.labelled.train

    @property
    def validation(self) -> tuple[Row, ...]:
        return self.labelled.validation

    @property
    def test(self) -> tuple[Row, ...]:
        return self.labelled.test

    @property
    def digest(self) -> str:
        """SHA-256 over the labels and the rows of all parts."""
        return self.labelled.digest

    def test_rows(self) -> tuple[Row, ...]:
        """The test rows. Raises UserError if there are none."""
        if not self.test:
            raise UserError("There are no test rows.", hint="Name data.test, or set data.test_size.")
        return self.test

    def needs_rgen(self) -> bool:
        """Whether R-Gen writes some row's reasoning, rather than the user or a server's model."""
        return self.recipe.augment.engine != "openai" and any(
            row.reasoning is None for row in (*self.train, *self.validation)
        )


def row_ids_digest(data: RunData) -> str:
    """A short hash of the ids of the rows that get a reasoning."""
    return digest_of([row.id for row in (*data.train, *data.validation)])


def read_reasonings(path: Path, rows: Sequence[Row]) -> list[str | None]:
    """The reasoning that each row has in a file of augmented rows, found by its id; None if no reasoning was kept.

    Raises UserError if the file holds other rows than these, or rows without ids."""
    rows_by_id = {row.id: row for row in rows}
    reasonings: dict[str, str] = {}
    for record in read_jsonl(path):
        row_id = record.get("id")
        if row_id is None:
            raise _other_rows(f"{path} was written by an earlier version: its rows have no ids.")
        row = rows_by_id.get(row_id)
        if row is None or (row.text, row.label) != (record["text"], record["label"]):
            raise _other_rows(f"{path} holds a row that is not one of this run: {row_id}, {record['text'][:60]!r}.")
        if row_id in reasonings:
            raise _other_rows(f"{path} holds the row {row_id} twice.")
        reasonings[row_id] = record["reasoning"]
    return [reasonings.get(row.id) for row in rows]


def _other_rows(what: str) -> UserError:
    return UserError(
        what, hint="Run `rir-mlx augment`: it writes the file again. Reasonings in the journal are not generated again."
    )
