"""What texts look like before any tokenizer reads them: how long they are, and in which script."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

_READ = 2000
_SHARE = 0.05
"""From this share of the letters on, a script is named."""


def describe_texts(texts: Sequence[str]) -> str:
    """Words of a text (5 to 95 % of them), and the scripts of the first texts' letters."""
    low, middle, high = np.percentile([len(text.split()) for text in texts], [5, 50, 95]).tolist()
    return f"{middle:.0f} words (5 to 95 %: {low:.0f} to {high:.0f}), in {' and '.join(scripts(texts)) or 'no'} script"


def scripts(texts: Sequence[str]) -> list[str]:
    """The scripts that many letters of the first texts belong to, the most frequent first: `Latin`, `Cyrillic`, `CJK`.
    They are the first words of the letters' Unicode names."""
    letters = Counter(letter for text in texts[:_READ] for letter in text if letter.isalpha())
    found = Counter[str]()
    for letter, count in letters.items():
        found[unicodedata.name(letter, "unknown").split()[0]] += count
    return [
        name if name == "CJK" else name.capitalize()
        for name, count in found.most_common()
        if count >= _SHARE * found.total()
    ]
