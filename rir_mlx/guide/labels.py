"""The labels of a table: which are meant, which are probably misspelt, and rows to describe each from."""

from __future__ import annotations

import difflib
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rir_mlx.data.audit.findings import Material
from rir_mlx.data.rows import Row
from rir_mlx.data.same_text import normalised

EXAMPLES = 3
_LIKENESS = 0.8
"""Letters that two spellings share (difflib's ratio) if one is probably a slip of the other."""
_SELDOM, _FEW = 20, 10
"""A misspelling is this many times rarer than what is meant, and has fewer rows than this."""


@dataclass(frozen=True)
class LabelFacts:
    """`counts` are the rows of each meant label, `strays` the label that each misspelling probably means, with its rows
    (label → (meant, rows)), `examples` some texts of each label."""

    counts: Mapping[str, int]
    strays: Mapping[str, tuple[str, int]]
    examples: Mapping[str, Sequence[str]]


def label_facts(material: Material) -> LabelFacts:
    """The labels of all rows."""
    rows = [row for part in material.parts.values() for row in part]
    counts = Counter(row.label for row in rows)
    strays: dict[str, tuple[str, int]] = {}
    for label, count in counts.items():
        if count >= _FEW:
            continue
        meant = _meant_by(label, [other for other in counts if counts[other] >= _SELDOM * count])
        if meant is not None:
            strays[label] = (meant, count)
    kept = {label: counts[label] for label in sorted(counts) if label not in strays}
    return LabelFacts(kept, strays, _examples(rows, kept))


def _meant_by(label: str, others: Sequence[str]) -> str | None:
    """The label of which this one is probably a slip. Labels that differ in their digits, and those that differ in
    their beginning (`safe`, `unsafe`), are meant as they are."""
    plain = {" ".join(other.casefold().split()): other for other in others}
    own = " ".join(label.casefold().split())
    for near in difflib.get_close_matches(own, plain, n=3, cutoff=_LIKENESS):
        digits = [re.sub(r"\D", "", text) for text in (own, near)]
        begins = near != own and (near.endswith(own) or own.endswith(near))
        if digits[0] == digits[1] and not begins:
            return plain[near]
    return None


def _examples(rows: Sequence[Row], labels: Mapping[str, int]) -> dict[str, list[str]]:
    """Different texts of usual length for each label."""
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        texts[row.label].setdefault(normalised(row.text), " ".join(row.text.split()))
    found = {}
    for label in labels:
        own = list(texts[label].values())
        usual = statistics.median(map(len, own))
        found[label] = sorted(own, key=lambda text: abs(len(text) - usual))[:EXAMPLES]
    return found
