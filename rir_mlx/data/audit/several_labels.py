"""Labels that seem to say several things of one text: a row has one label here, and each of these becomes its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping

from rir_mlx.data.audit.findings import Finding

_SHOWN = 6
_SEPARATORS = (";", "|", ",", "/", "+", "&")
_FIX = (
    "A row has one label here: each of these is learned as a label of its own, and an answer that is right in part is "
    "wrong. Keep each row's main label, or make a column of yes and no for each label and train a classifier on each."
)


def check_several(totals: Mapping[str, int], spellings: Mapping[str, Counter[str]]) -> Iterator[Finding]:
    """Warnings about labels that combine others, have several lines, or are lists or distributions in JSON. `totals`
    are the rows of each label, `spellings` how each stands in its cells."""
    written = Counter({label: totals[label] for label in totals if _is_json(label)})
    if written:
        yield _finding("labels in JSON", "labels that are lists or objects", written)
    for separator in _SEPARATORS:
        combined = _combined(totals, separator)
        if combined:
            yield _finding("combined labels", f"labels that combine others with {separator!r}", combined)
    if lines := _of_several_lines(spellings):
        yield _finding("combined labels", "labels of several lines, which are read as one", lines)


def _combined(totals: Mapping[str, int], separator: str) -> Counter[str]:
    """The labels all of whose parts are labels, or parts of another such label; none if there is a single one whose
    parts are not all labels of their own."""
    parts = {label: [part.strip() for part in label.split(separator)] for label in totals}
    several = {label: each for label, each in parts.items() if len(each) > 1 and all(each) and not _is_json(label)}
    uses = Counter(part for each in parts.values() for part in set(each))
    return Counter({label: totals[label] for label, each in several.items() if all(uses[part] > 1 for part in each)})


def _of_several_lines(spellings: Mapping[str, Counter[str]]) -> Counter[str]:
    """The cells with a line break inside. Where the label has one itself, it is called so."""
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
        return isinstance(json.loads(label.replace("'", '"')), list | dict)
    except ValueError:
        return False


def _finding(kind: str, what: str, labels: Counter[str]) -> Finding:
    shown = ", ".join(f"{name!r} ({count:,})" for name, count in labels.most_common(_SHOWN))
    more = f", and {len(labels) - _SHOWN:,} more" if len(labels) > _SHOWN else ""
    return Finding(kind, "warning", labels.total(), f"{what}: {shown}{more}", _FIX)
