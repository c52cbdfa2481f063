"""From a run's decisions to new tables. The table that was reviewed is never written.

A new table holds the rows of one part of the run, and no others. Every draw (of the split, of `max_samples`, of a
part's size) goes by label, so a corrected label would change it: the next run would be measured on other rows, and
could leave out the reviewed ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rir_mlx.data.loading import LabelledData, columns_of, format_of, load_labelled
from rir_mlx.data.rows import Row
from rir_mlx.data.tables.table import Settings, Wanted
from rir_mlx.errors import UserError
from rir_mlx.recipe.builtin import BUILTIN, EMBEDDED
from rir_mlx.recipe.schema import DataSection, Recipe
from rir_mlx.review.decisions import Decision, Matched, ReviewLog, matched
from rir_mlx.review.edited_files import (
    DELIMITED,
    JSON_LINES,
    NO_EDIT,
    Edit,
    EditedFile,
    opened_for_edits,
    plain_table,
)
from rir_mlx.review.rows import rows_of
from rir_mlx.storage.atomic import replacing, unwritable
from rir_mlx.storage.layout import RunDir
from rir_mlx.types import PARTS, Part


@dataclass
class NewTables:
    """What was written.

    files            the table of each part
    reasoning_column the column of the user's own reasonings; None if no row has one
    labels           rows with another label than before
    reasonings       rows with a reviewed reasoning
    test_reasonings  reasonings of test rows, which are left out: nothing is trained on test rows
    lost             decisions whose rows are not in the table any more, or whose labels were changed there
    moved            decisions whose rows were found at another place
    unused           rows of the table that the run does not use, and that are left out
    """

    files: dict[Part, Path] = field(default_factory=dict)
    reasoning_column: str | None = None
    labels: int = 0
    reasonings: int = 0
    test_reasonings: int = 0
    lost: list[Decision] = field(default_factory=list)
    moved: int = 0
    unused: int = 0


def write_new_tables(run: RunDir, recipe: Recipe, target: Path) -> NewTables:
    """Write the run's rows with all decisions to `target`, and those of the other parts beside it as
    `TARGET-validation` and `TARGET-test`.

    Raises UserError if nothing was decided, a file exists, or `target` is named after another format; DataError if the
    table cannot be read."""
    decisions = [decision for decision in ReviewLog(run.review).current().values() if decision.changes]
    if not decisions:
        raise UserError(
            f"Nothing was decided about the rows of {run.folder}.",
            hint=f"Look through them: `rir-mlx serve {run.folder} --open`, Review.",
        )
    data = load_labelled(recipe.data, recipe.seed)
    return _Tables(recipe.data, data, matched(decisions, (row for _, row in rows_of(data))), target).write()


class _Tables:
    def __init__(self, section: DataSection, data: LabelledData, decisions: Matched, target: Path) -> None:
        self.section, self.data, self.target = section, data, target
        self.part_of: dict[str, Part] = {row.id: part for part, row in rows_of(data)}
        self.sources: list[Part] = [part for part in PARTS if getattr(section, part) is not None]
        self.files = {part: self._open(part) for part in self.sources}
        self.result = NewTables(lost=decisions.lost, moved=decisions.moved)
        self.edits = self._edits(decisions.by_row)

    def write(self) -> NewTables:
        new_column = self._new_column()
        texts = dict[Part, str]()
        for part in self.sources:
            texts.update(self._texts(part, new_column))
        self.result.files = {part: self._path(part, self._source_of(part)) for part in texts}
        _write_all({path: texts[part] for part, path in self.result.files.items()})
        return self.result

    def _edits(self, decisions: Mapping[str, Decision]) -> dict[str, Edit]:
        """The edits by the id of their row; counts them."""
        edits, result = dict[str, Edit](), self.result
        for part, row in rows_of(self.data):
            if (decision := decisions.get(row.id)) is None:
                continue
            label = decision.label if decision.label != row.label else None
            reasoning = decision.reasoning
            if part == "test":
                result.test_reasonings += reasoning is not None
                reasoning = None
            edits[row.id] = Edit(label, reasoning)
            result.labels += label is not None
            result.reasonings += reasoning is not None
        return edits

    def _open(self, part: Part) -> EditedFile | None:
        """The source's file, if it is a single one whose rows can be written again as they stand."""
        path = getattr(self.section, part).path
        place = EMBEDDED / path.removeprefix(BUILTIN) if path.startswith(BUILTIN) else Path(path).expanduser()
        if not place.is_file():
            return None
        columns = columns_of(self.section, part)
        return opened_for_edits(place, Wanted(columns, str(place), format_of(self.section), Settings("data")))

    def _new_column(self) -> str | None:
        """The column of reasonings to add, if there is none and one is needed. Training and validation rows get it."""
        self.result.reasoning_column = self.section.reasoning_column
        if self.section.reasoning_column is not None or not self.result.reasonings:
            return None
        taken = {name for file in self.files.values() if file is not None for name in file.columns}
        names = ("reasoning", *(f"reviewed_reasoning{number or ''}" for number in range(len(taken))))
        self.result.reasoning_column = next(name for name in names if name not in taken)
        return self.result.reasoning_column

    def _texts(self, source: Part, new_column: str | None) -> dict[Part, str]:
        """The tables that a source becomes: one, or one for each part that was carved out of it."""
        file, column = self.files[source], new_column if source != "test" else None
        parts = [source, *(part for part in PARTS if source == "train" and self._carved(part))]
        if file is None:
            named = self.section.text_column
            text, label = named if isinstance(named, str) else "text", self.section.label_column or "label"
            names = (text, label, self.result.reasoning_column or "reasoning")
            return {part: plain_table(self._rows(part), names, self._suffix(source)) for part in parts}
        lines: dict[Part, list[str]] = {part: [file.head(column)] for part in parts}
        edits = {
            int(row.rpartition(":")[2]): edit for row, edit in self.edits.items() if row.partition(":")[0] == source
        }
        for number, line in file.lines(edits, column):
            part = self.part_of.get(f"{source}:{number}")
            if part is None:
                self.result.unused += 1
            else:
                lines[part].append(line)
        return {part: "".join(found) for part, found in lines.items()}

    def _rows(self, part: Part) -> Iterator[tuple[Row, Edit]]:
        return ((row, self.edits.get(row.id, NO_EDIT)) for row in getattr(self.data, part))

    def _carved(self, part: Part) -> bool:
        return getattr(self.section, part) is None and bool(getattr(self.data, part))

    def _source_of(self, part: Part) -> Part:
        return part if part in self.sources else "train"

    def _suffix(self, source: Part) -> str:
        """How the file of a source ends that was written again."""
        if self.files[source] is None:
            return self.target.suffix.lower()
        return Path(getattr(self.section, source).path).suffix.lower()

    def _path(self, part: Part, source: Part) -> Path:
        suffix = self._suffix(source)
        if suffix not in (*DELIMITED, *JSON_LINES):
            raise UserError(
                f"{self.target}: files ending in {suffix or 'nothing'} are not written.",
                hint=f"Name it {self.target.with_suffix('.csv').name}.",
            )
        if source == "train" and suffix != self.target.suffix.lower():
            raise UserError(
                f"The table comes out as {suffix[1:].upper()}, and {self.target.name} is named after another format.",
                hint=f"Name it {self.target.with_suffix(suffix).name}.",
            )
        return self.target if part == "train" else self.target.with_name(f"{self.target.stem}-{part}{suffix}")


def _write_all(texts: Mapping[Path, str]) -> None:
    """Write files that do not exist yet: all of them or none. Raises UserError if one exists."""
    claimed: list[Path] = []
    try:
        for path in texts:
            _claim(path)
            claimed.append(path)
        for path, text in texts.items():
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="")
    except BaseException:
        for path in claimed:
            path.unlink(missing_ok=True)
        raise


def _claim(path: Path) -> None:
    """Make an empty file that nobody else can have made."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError as error:
        raise UserError(f"{path} already exists.", hint="Name another file with --output.") from error
    except FileNotFoundError as error:
        raise UserError(f"There is no folder {path.parent}.", hint=f"Make it: mkdir -p {path.parent}") from error
    except OSError as error:
        raise unwritable(path, error) from error
