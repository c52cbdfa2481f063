"""Every row of a recipe's sources for an audit: nothing is drawn, and what loading would refuse is kept and told.

Parts without rows of their own are carved as in training, which draws its sample afterwards: so the rows that train on
`max_samples` are among these. Reads through `tables.py` and `data.py`; knows no check.
"""

from __future__ import annotations

from rir_mlx.data.audit.findings import Material, Refused
from rir_mlx.data.loading import check_labels, columns_of, labels_in
from rir_mlx.data.rows import Row, row_readers, sift
from rir_mlx.data.splits import carve, carved_size
from rir_mlx.data.tables.sources import read_tables
from rir_mlx.errors import DataError
from rir_mlx.recipe.schema import DataSection

_SHARES = {"test": 0.2, "validation": 0.1}
"""What is carved where the wanted size does not fit."""


def scan_sources(section: DataSection, seed: int) -> Material:
    """Read and split all rows. Raises DataError where a source is not there, or cannot be read at all."""
    rows: dict[str, list[Row]] = {}
    refused: list[Refused] = []
    notes: list[str] = []
    labels = dict(section.labels)
    for part, source in (("train", section.train), ("validation", section.validation), ("test", section.test)):
        if source is None:
            continue
        tables = read_tables(source, columns_of(section, part), f"data.{part}")
        rows[part] = []
        for table, read in row_readers(tables, part, {}):
            found = sift(table, read, notes)
            rows[part] += found.rows
            refused += [Refused(part, table.name, fault.row, fault.what) for fault in sorted(found.faults)]
        if not rows[part]:
            refused.append(Refused(part, source.path, 0, f"data.{part}: no row has a text and a label."))
        if part == "train" and not labels:
            labels = labels_in(tables, rows[part])
    if rows["train"]:
        try:
            notes += check_labels(section, labels, rows["train"])
        except DataError as error:
            refused.append(Refused("train", section.train.path, 0, str(error)))
        everything = len(rows["train"])
        for part in ("test", "validation"):
            if part not in rows:
                size, problem = _size(section, part, everything, len(rows["train"]))
                refused += [Refused("train", section.train.path, 0, problem)] if problem else []
                rows[part], rows["train"] = carve(rows["train"], part, size, everything, seed)
                if rows[part]:
                    notes.append(f"{part} carved out of train: {len(rows[part]):,} rows")
    return Material(rows, tuple(section.labels), refused, notes)


def _size(section: DataSection, part: str, everything: int, left: int) -> tuple[float, str]:
    """How much to carve, and why loading would refuse that. A size that does not fit gives way to a share, so that
    the parts can be compared; it is refused where somebody asked for it, not where it is the default."""
    key = "val_size" if part == "validation" else "test_size"
    size: float = getattr(section, key)
    try:
        carved_size(size, everything, left, f"data.{key}", f", or give rows of its own in data.{part}")
    except DataError as error:
        return _SHARES[part], str(error) if key in section.model_fields_set else ""
    return size, ""
