"""The labels of a table: which are meant, which are probably misspelt, and rows to describe each from."""

from __future__ import annotations

import difflib
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rir_mlx.data.audit.findings import Material
from rir_mlx.data.rows import Row
from rir_mlx.data.same_text import normalised

EXAMPLES = 3
_LIKENESS = 0.8
"""Letters that two spellings share (difflib's ratio) if one is probably a slip of the other."""
_NUMERAL = re.compile(r"\w|[ivxlcdm]+")
"""A word that tells members of a series apart, in small letters."""
_SELDOM, _FEW, _SURE = 20, 10, 4
"""A misspelling is `_SELDOM` times rarer than what is meant, and has fewer rows than `_FEW`; where it has the same
letters (`FINE`, `buliding`), `_SURE` times rarer."""


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
    strays: dict[str, tuple[str, int]] = {}
    for label, count in counts.items():
        if count >= _FEW or not spot_slips:
            continue
        meant = _meant_by(label, [other for other in counts if counts[other] >= _SELDOM * count]) or next(
            (other for other in counts if counts[other] >= _SURE * count and _same_letters(label, other)), None
        )
        if meant is not None:
            strays[label] = (meant, count)
    kept = {label: counts[label] for label in sorted(counts) if label not in strays}
    each = ((label, row.text) for row in rows for label in material.labels_of(row))
    return LabelFacts(kept, strays, _examples(each, kept))


def _meant_by(label: str, others: Sequence[str]) -> str | None:
    """The label of which this one is probably a slip."""
    plain = {" ".join(other.casefold().split()): other for other in others}
    own = " ".join(label.casefold().split())
    for near in difflib.get_close_matches(own, plain, n=3, cutoff=_LIKENESS):
        if near == own or not _both_meant(own, near):
            return plain[near]
    return None


def _same_letters(label: str, other: str) -> bool:
    """Whether two labels differ in capitals and blanks alone, or in two neighbours that changed places."""
    own, near = ("".join(text.casefold().split()) for text in (label, other))
    places = [place for place, pair in enumerate(zip(own, near, strict=False)) if pair[0] != pair[1]]
    if len(own) != len(near) or not places:
        return own == near
    first = places[0]
    letters = own[first : first + 2]
    return places == [first, first + 1] and letters.isalpha() and letters == near[first : first + 2][::-1]


def _both_meant(own: str, near: str) -> bool:
    """Whether two labels that are almost alike are probably both meant: they differ in their digits, in their beginning
    (`safe`, `unsafe`) or ending (`hate`, `hater`; a letter that is doubled is no ending), by a word, or in a word that
    is a letter or a Roman numeral (`class A`, `class C`)."""
    if re.sub(r"\D", "", own) != re.sub(r"\D", "", near):
        return True
    short, long = sorted((own, near), key=len)
    if long.endswith(short) or (long.startswith(short) and long[len(short) :].strip(short[-1])):
        return True
    if len(own) == len(near) and own[:-1] == near[:-1]:
        return True
    words, others = (re.findall(r"[^\W_]+", text) for text in (own, near))
    if len(words) != len(others):
        return "".join(words) != "".join(others)
    pairs = [pair for pair in zip(words, others, strict=True) if pair[0] != pair[1]]
    return any(all(_NUMERAL.fullmatch(word) for word in pair) for pair in pairs)


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
