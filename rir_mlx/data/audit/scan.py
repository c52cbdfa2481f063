"""Every row of a recipe's sources for an audit: nothing is sampled, and faults are collected instead of raised.

Parts without a source are carved as in training, which samples `max_samples` afterwards: the rows that it trains on are
among these, and how many of each label it draws is counted. Knows no check.
"""

from __future__ import annotations

from rir_mlx.data.audit.findings import Material, Refused
from rir_mlx.data.labels.spelling import Spellings
from rir_mlx.data.loading import check_labels, labels_in, read_parts, row_rules, together_of
from rir_mlx.data.row_reading import sift_rows
from rir_mlx.data.rows import Rows
from rir_mlx.data.splits import carve_missing_parts, sample_train, strata_of
from rir_mlx.errors import DataError
from rir_mlx.recipe.schema import DataSection

_SHARES = {"test": 0.2, "validation": 0.1}
"""What is carved if the requested size does not fit."""


def scan_sources(section: DataSection, seed: int) -> Material:
    """Read and split all rows. Raises DataError if a source is missing or cannot be read at all."""
    rows: dict[str, Rows] = {}
    refused: list[Refused] = []
    notes: list[str] = []
    spellings: Spellings = {}
    labels = dict(section.labels)
    drawn: Rows | None = None
    read, style = read_parts(section)
    for part, tables in read.items():
        source = getattr(section, part)
        rules = row_rules(section, section.labels, spellings, style, lenient=True)
        rows[part], faulty = sift_rows(tables, part, rules, notes)
        refused += [
            Refused(part, found.table.name, fault.row, fault.what, fault.sheet_row)
            for found in faulty
            for fault in sorted(found.faults)
        ]
        if not rows[part]:
            refused.append(Refused(part, source.path, 0, f"data.{part}: no row has a text and a label."))
        if part == "train" and not labels:
            labels = labels_in(tables, spellings)
    if rows["train"]:
        try:
            notes += check_labels(section, labels, rows["train"])
            together_of(section, labels, rows, notes)
        except DataError as error:
            refused.append(Refused("train", section.train.path, 0, str(error)))
        problems: list[str] = []
        notes += carve_missing_parts(rows, section, seed, lambda part, error: _fallback(section, part, error, problems))
        try:
            used = sample_train(rows["train"], section.max_samples, seed, [], strata_of(section, rows["train"]))
            drawn = used if len(used) < len(rows["train"]) else None
        except DataError as error:
            problems.append(str(error))
        refused += [Refused("train", section.train.path, 0, problem) for problem in problems]
    skips = section.on_bad_rows == "skip"
    ways = (section.several, section.soft_labels)
    plain = [label for label, description in section.labels.items() if not description]
    return Material(rows, tuple(section.labels), refused, notes, spellings, skips, drawn, *ways, plain)


def _fallback(section: DataSection, part: str, error: DataError, problems: list[str]) -> float:
    """A share in place of a size that does not fit, so that the parts can be compared. It is a problem only if the user
    asked for that size: the default sizes are too large for small tables."""
    if ("val_size" if part == "validation" else "test_size") in section.model_fields_set:
        problems.append(str(error))
    return _SHARES[part]
