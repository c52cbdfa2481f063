"""From a run's decisions to new tables. The table that was reviewed is never written.

A new table holds the rows of one part of the run, and no others. Every draw (of the split, of `max_samples`, of a
part's size) goes by label, so a corrected label would change it: the next run would be measured on other rows, and
could leave out the reviewed ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rir_mlx.data.labels.combinations import parts_of
from rir_mlx.data.loading import LabelledData, columns_of, format_of, load_labelled
from rir_mlx.data.rows import Row
from rir_mlx.data.tables.sources import files_of, place_of
from rir_mlx.data.tables.table import Settings, Wanted
from rir_mlx.errors import UserError
from rir_mlx.json_text import json_of
from rir_mlx.recipe.loading import dump_yaml
from rir_mlx.recipe.schema import DataSection, Recipe
from rir_mlx.review.decisions import Decision, Matched, ReviewLog, RowIndex
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
from rir_mlx.storage.atomic import creating, make_folder
from rir_mlx.storage.layout import RunDir
from rir_mlx.types import PARTS, Part

_OPENS_A_LIST = ("[", "(", "{")


@dataclass
class NewTables:
    """What was written.

    files            the table of each part
    reasoning_column the column of the user's own reasonings; None if no row has one
    labels           rows with another label than before
    reasonings       rows with a reviewed reasoning
    cleared          rows whose own reasoning was deleted
    test_reasonings  reasonings of test rows, which are left out: nothing is trained on test rows
    lost             decisions whose rows are not in the table any more, or whose labels were changed there
    moved            decisions whose rows were found at another place
    unused           rows of the table that the run does not use, and that are left out
    gone             labels that the recipe names, and that no row has any more
    settings         what a recipe has to say of these tables in place of what the run's says
    """

    files: dict[Part, Path] = field(default_factory=dict)
    reasoning_column: str | None = None
    labels: int = 0
    reasonings: int = 0
    cleared: int = 0
    test_reasonings: int = 0
    lost: list[Decision] = field(default_factory=list)
    moved: int = 0
    unused: int = 0
    gone: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)


def write_new_tables(run: RunDir, recipe: Recipe, target: Path) -> NewTables:
    """Write the run's rows with all decisions to `target`, and those of the other parts beside it as
    `TARGET-validation` and `TARGET-test`.

    Raises UserError if nothing was decided, a file exists, or `target` is a folder or named after another format;
    DataError if the table cannot be read."""
    if target.is_dir():
        raise UserError(f"{target} is a folder.", hint=f"Name a file in it: --output {target / 'new.csv'}")
    decisions = ReviewLog(run.review).current()
    if not any(decision.changes for decision in decisions):
        raise UserError(
            f"Nothing was decided about the rows of {run.folder}.",
            hint=f"Look through them: `rir-mlx serve {run.folder} --open`, Review.",
        )
    data = load_labelled(recipe.data, recipe.seed)
    matched = RowIndex(row for _, row in rows_of(data)).match(decisions)
    return _Tables(recipe.data, data, matched, target).write()


class _Tables:
    def __init__(self, section: DataSection, data: LabelledData, decisions: Matched, target: Path) -> None:
        self.section, self.data, self.target = section, data, target
        self.part_of: dict[str, Part] = {row.id: part for part, row in rows_of(data)}
        self.sources: list[Part] = [part for part in PARTS if getattr(section, part) is not None]
        self.files = {part: self._open(part) for part in self.sources}
        self.label_columns = isinstance(section.label_column, tuple)
        self.joins = self.label_columns or (
            not isinstance(section.text_column, str | None) and None in self.files.values()
        )
        """Whether columns of a text, or of labels, become one: a plain table has one, and so must the others."""
        self.separator = section.label_separator or (";" if section.several else None)
        if self.joins:
            self.files = dict.fromkeys(self.sources)
        lost = [decision for decision in decisions.lost if decision.changes]
        self.result = NewTables(lost=lost, moved=decisions.moved)
        self.edits = self._edits(decisions.by_row)
        self.result.gone = self._gone()

    def write(self) -> NewTables:
        new_column = self._new_column()
        texts = dict[Part, str]()
        for part in self.sources:
            texts.update(self._texts(part, new_column))
        self.result.files = {part: self._path(part, self._source_of(part)) for part in texts}
        self.result.settings = self._settings()
        _write_all({path: texts[part] for part, path in self.result.files.items()})
        return self.result

    def _settings(self) -> dict[str, str]:
        section, settings = self.section, {f"data.{part}": str(path) for part, path in self.result.files.items()}
        if self.result.reasonings and self.result.reasoning_column is not None:
            settings["data.reasoning_column"] = self.result.reasoning_column
        if self.joins:
            settings["data.text_column"], label = self._plain_names()
            settings |= {"data.label_column": label} if self.label_columns else {}
            settings |= {"data.label_separator": self.separator} if self.label_columns and self.separator else {}
        if self.result.gone:
            left = {name: about for name, about in section.labels.items() if name not in self.result.gone}
            settings["data.labels"] = dump_yaml(left, default_flow_style=True, width=10**9).strip()
        if section.encoding is not None:
            settings["data.encoding"] = "null"
        if section.quotes is False or any(file is not None and file.changes_quotes for file in self.files.values()):
            settings["data.quotes"] = "true"
        return settings

    def _edits(self, decisions: Mapping[str, Decision]) -> dict[str, Edit]:
        """The edits by the id of their row; counts them."""
        edits, result = dict[str, Edit](), self.result
        for part, row in rows_of(self.data):
            if (decision := decisions.get(row.id)) is None or not decision.changes:
                continue
            label = decision.label if decision.label != row.label else None
            reasoning = decision.reasoning
            if part == "test":
                result.test_reasonings += reasoning is not None
                reasoning = None
            elif not reasoning and row.reasoning is not None:
                result.cleared += 1
                reasoning = ""
            several = label is not None and self.separator is not None
            labels = self._labels_of(label or "") if several else ()
            edits[row.id] = Edit(None if label is None else self._written(label), reasoning, labels)
            result.labels += label is not None
            result.reasonings += bool(reasoning)
        return edits

    def _gone(self) -> list[str]:
        """The named labels that the run's rows had before the edits, and have no more."""
        before, after = set[str](), set[str]()
        for _, row in rows_of(self.data):
            own = {part for label, _ in row.divided for part in self._labels_of(label)}
            edit = self.edits.get(row.id, NO_EDIT)
            before |= own
            after |= own if edit.label is None else {*(edit.labels or (edit.label,))}
        return [label for label in self.section.labels if label in before - after - {self.section.no_label}]

    def _labels_of(self, name: str) -> Sequence[str]:
        return (name,) if self.separator is None else parts_of(name)

    def _written(self, label: str) -> str:
        """A label as it stands in a cell."""
        separator, parts = self.separator, parts_of(label)
        if separator is None:
            return label
        listed = any(separator in part or part[:1] in _OPENS_A_LIST for part in parts)
        return json_of(parts) if listed else separator.join(parts)

    def _cell(self, row: Row) -> str:
        """What stands in a row's cell."""
        return json_of(dict(row.shares)) if row.shares else self._written(row.label)

    def _open(self, part: Part) -> EditedFile | None:
        """The source's file, if it is a single one whose rows can be written again as they stand."""
        source = getattr(self.section, part)
        files = files_of(source)
        if len(files) != 1 or place_of(source.path).is_dir():
            return None
        wanted = Wanted(columns_of(self.section, part), str(files[0]), format_of(self.section), Settings("data"))
        return opened_for_edits(files[0], wanted)

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
            names = (*self._plain_names(), self.result.reasoning_column or "reasoning")
            suffix, mark = self._suffix(source), self.section.delimiter
            return {part: plain_table(self._rows(part), names, suffix, mark, self._cell) for part in parts}
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

    def _plain_names(self) -> tuple[str, str]:
        """The columns of the text and the label in a plain table."""
        text, label = self.section.text_column, self.section.label_column
        taken = {text, label, self.result.reasoning_column or "reasoning"}
        free = (name for name in ("label", "labels", "label_of_text") if name not in taken)
        label = label if isinstance(label, str) else "label" if label is None else next(free)
        return (text if isinstance(text, str) else "text"), label

    def _rows(self, part: Part) -> Iterator[tuple[Row, Edit]]:
        return ((row, self.edits.get(row.id, NO_EDIT)) for row in getattr(self.data, part))

    def _carved(self, part: Part) -> bool:
        return getattr(self.section, part) is None and bool(getattr(self.data, part))

    def _source_of(self, part: Part) -> Part:
        return part if part in self.sources else "train"

    def _suffix(self, source: Part) -> str:
        """The suffix of the table that a source becomes."""
        if self.files[source] is None:
            return self.target.suffix.lower()
        return files_of(getattr(self.section, source))[0].suffix.lower()

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
    paths = list(texts)
    folder = paths[0].parent
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.", hint=f"Make it: mkdir -p {folder}")
    make_folder(folder)
    try:
        with creating(paths) as written:
            for file, text in zip(written, texts.values(), strict=True):
                file.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    except FileExistsError as error:
        taken = error.filename2 or error.filename
        raise UserError(f"{taken} already exists.", hint="Name another file with --output.") from error
