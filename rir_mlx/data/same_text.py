"""When two texts are the same text: the one place that decides it, for audits and for cleaning a test set."""

from __future__ import annotations

import unicodedata


def normalised(text: str) -> str:
    """The text without what people do not see as a difference: letter case, compatibility forms of Unicode
    (full-width letters, ligatures, composed or decomposed accents), and the amount and kind of white space.

    This is Unicode's compatibility caseless match (The Unicode Standard, section 3.13, D146), which folds twice because
    each of folding and NFKC can undo a little of the other. Normalising twice is the same as once."""
    if text.isascii():
        return " ".join(text.casefold().split())
    folded = unicodedata.normalize("NFD", text).casefold()
    folded = unicodedata.normalize("NFKC", folded).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())
