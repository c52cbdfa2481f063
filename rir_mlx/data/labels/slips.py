"""Labels that are probably slips of another one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

_MOST_PAIRS = 10_000
_LIKENESS = 0.8
"""Letters that two spellings share (difflib's ratio) if one is probably a slip of the other."""
_NUMERAL = re.compile(r"\w|[ivxlcdm]+")
"""A word that tells members of a series apart, in small letters."""
_SELDOM, _FEW, _SURE = 20, 10, 4
"""A misspelling is `_SELDOM` times rarer than what is meant, and has fewer rows than `_FEW`; where it has the same
letters (`FINE`, `buliding`), `_SURE` times rarer."""


def slips(counts: Mapping[str, int]) -> dict[str, str]:
    """The label that each misspelling probably means. `counts` are the rows of each label; where rare ones and all
    others make very many pairs, none is looked for."""
    found: dict[str, str] = {}
    if sum(count < _FEW for count in counts.values()) * len(counts) > _MOST_PAIRS:
        return found
    for label, count in counts.items():
        if count >= _FEW:
            continue
        meant = _meant_by(label, [other for other in counts if counts[other] >= _SELDOM * count]) or next(
            (other for other in counts if counts[other] >= _SURE * count and _same_letters(label, other)), None
        )
        if meant is not None:
            found[label] = meant
    return found


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
