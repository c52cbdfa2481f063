"""The labels of a table: which are meant, which are probably misspelt, and rows to describe each from."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rir_mlx.data.audit.findings import Material
from rir_mlx.data.labels.slips import slips
from rir_mlx.data.rows import Row
from rir_mlx.data.same_text import normalised

EXAMPLES = 3


@dataclass(frozen=True)
class LabelFacts:
    """`counts` are the rows of each meant label, `strays` the label that each misspelling probably means, with its rows
    (label → (meant, rows)), `examples` some texts of each label."""

    counts: Mapping[str, int]
    strays: Mapping[str, tuple[str, int]]
    examples: Mapping[str, Sequence[str]]


def label_facts(material: Material, *, spot_slips: bool = True) -> LabelFacts:
    """The labels of all rows. Without `spot_slips`, each is meant as it is spelled."""
    rows = [row for part in material.parts.values() for row in part]
    counts = Counter(label for row in rows for label in material.labels_of(row))
    strays = {label: (meant, counts[label]) for label, meant in slips(counts).items()} if spot_slips else {}
    kept = {label: counts[label] for label in sorted(counts) if label not in strays}
    each = ((label, row.text) for row in rows for label in material.labels_of(row))
    return LabelFacts(kept, strays, _examples(each, kept))


def label_examples(rows: Sequence[Row], labels: Mapping[str, int], material: Material) -> dict[str, list[str]]:
    """Different texts of usual length for each label; none for a label that the rows lack. `material` knows which
    labels a row has."""
    return _examples(((label, row.text) for row in rows for label in material.labels_of(row)), labels)


def _examples(rows: Iterable[tuple[str, str]], labels: Mapping[str, int]) -> dict[str, list[str]]:
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    for label, text in rows:
        texts[label].setdefault(normalised(text), " ".join(text.split()))
    found = {}
    for label in labels:
        own = list(texts[label].values())
        usual = statistics.median(map(len, own)) if own else 0
        found[label] = sorted(own, key=lambda text: abs(len(text) - usual))[:EXAMPLES]
    return found
