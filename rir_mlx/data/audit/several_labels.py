"""Labels that seem to say several things of one text, where the recipe reads one label a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rir_mlx.data.audit.findings import Finding, Material, with_rows
from rir_mlx.data.labels.spelling import is_missing
from rir_mlx.data.rows import labels_of
from rir_mlx.json_text import literal_of

_SEPARATORS = (";", "|", ",", "/", "+", "&")
_SURE = _SEPARATORS[:2]
"""Those that hardly ever stand within a label."""
_LEAST = 0.02
"""The share of rows from which on labels are taken for several of a text."""
_NO_STRING = "the label is not a string but "
_FIX = (
    "Each of these is learned as a label of its own. If a text may have several labels, set data.label_separator to {}."
)
_SOFT = (
    "Each of these is learned as a label of its own. If they are votes or probabilities, set data.soft_labels to true."
)


def check_several(totals: Mapping[str, int], spellings: Mapping[str, Counter[str]]) -> Iterator[Finding]:
    """Warnings about labels that combine others, have several lines, or are lists or distributions in JSON. `totals`
    are the rows of each label, `spellings` how each stands in its cells."""
    written = Counter({label: totals[label] for label in totals if _is_json(label)})
    if written:
        lists = all(label.startswith("[") for label in written)
        yield _finding("labels in JSON", "labels that are lists or objects", written, "`,`" if lists else None)
    for separator in _SEPARATORS:
        if combined := _combined(totals, separator):
            what = f"labels that combine others with {separator!r}"
            yield _finding("combined labels", what, combined, f"`{separator}`")
    if lines := _of_several_lines(spellings):
        yield _finding("combined labels", "labels of several lines, which are read as one", lines, '`"\\n"`')


def reading_of(material: Material) -> dict[str, Any]:
    """The keys of `data` with which labels that were read as one each are read as what they seem to be: several of a
    text, or votes. Empty if they are single labels."""
    totals = Counter(label for rows in material.parts.values() for label in labels_of(rows))
    shown = [fault.what.removeprefix(_NO_STRING) for fault in material.refused if fault.what.startswith(_NO_STRING)]
    refused = Counter(cell[0] for cell in shown if _is_word(cell))
    written = Counter(label[0] for label in totals.elements() if _is_json(label) and _is_word(label))
    objects, lists = (refused[sign] + written[sign] for sign in "{[")
    unread = sum(map(_is_empty_list, shown))
    empty = unread + sum(count for label, count in totals.items() if _is_empty_list(label))
    rows = totals.total() + refused.total() + unread
    if lists and 2 * (lists + empty) > rows:
        return {"label_separator": ","} | ({"no_label": "none"} if empty else {})
    if 2 * objects > rows:
        return {"soft_labels": True}
    marks = {mark: _combined(totals, mark).total() for mark in _SURE} | {",": _rows_combined(totals, ",")}
    cells = Counter(cell.strip() for counts in material.spellings.values() for cell in counts.elements())
    marks["\n"] = _rows_combined(cells, "\n")
    best = max(marks, key=marks.__getitem__)
    return {"label_separator": best} if marks[best] >= max(2, _LEAST * rows) else {}


def _rows_combined(totals: Mapping[str, int], mark: str) -> int:
    """The rows whose label is surely made of others: each of its parts is also a label by itself, and says something
    in letters. Where other labels hold the mark, too, it may belong to them: 0."""
    parts = {label: [part.strip() for part in label.split(mark)] for label in totals if mark in label}
    alone = {" ".join(label.split()) for label in totals if mark not in label}
    if not all(len(each) > 1 and alone.issuperset(each) and all(map(_is_word, each)) for each in parts.values()):
        return 0
    return sum(totals[label] for label in parts)


def _is_word(part: str) -> bool:
    return any(sign.isalpha() for sign in part) and not is_missing(part)


def _combined(totals: Mapping[str, int], separator: str) -> Counter[str]:
    """The labels that are made of others: each part is a label of its own or a part of another one of these, at least
    one is a label of its own, and not all are numbers, as in a date or a grade (`4/5`)."""
    parts = {label: [part.strip() for part in label.split(separator)] for label in totals if not _is_json(label)}
    found = {
        label: each
        for label, each in parts.items()
        if 1 < len(each) == len(set(each)) and all(each) and not all(map(_is_number, each)) and totals.keys() & each
    }
    while True:
        uses = Counter(part for each in found.values() for part in each) + Counter(totals.keys())
        kept = {label: each for label, each in found.items() if all(uses[part] > 1 for part in each)}
        if len(kept) == len(found):
            return Counter({label: totals[label] for label in kept})
        found = kept


def _is_number(part: str) -> bool:
    return part.replace(".", "", 1).isdecimal()


def _of_several_lines(spellings: Mapping[str, Counter[str]]) -> Counter[str]:
    """The cells with a line break inside. A label that the user named with one is left out."""
    found = Counter[str]()
    for label, counts in spellings.items():
        if len(label.splitlines()) < 2:
            for cell, count in counts.items():
                if len(cell.strip().splitlines()) > 1:
                    found[cell.strip()] += count
    return found


def _is_json(label: str) -> bool:
    """Whether a label is a list or an object, as JSON or Python writes it."""
    if not label.startswith(("[", "{")):
        return False
    try:
        return isinstance(literal_of(label), list | dict)
    except ValueError:
        return False


def _is_empty_list(label: str) -> bool:
    return _is_json(label) and literal_of(label) == []


def _finding(kind: str, what: str, labels: Counter[str], separator: str | None) -> Finding:
    """`separator`: how it is written in a recipe; None if these cells have none."""
    hint = _SOFT if separator is None else _FIX.format(separator)
    return Finding(kind, "warning", labels.total(), f"{what}: {with_rows(dict(labels.most_common()))}", hint)
