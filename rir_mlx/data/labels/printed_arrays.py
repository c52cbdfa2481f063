"""Cells that hold an array as NumPy or pandas prints it, as a table gets them that is written with arrays in a column.

No reader takes them for lists: `['joy' 'fear']` is one text to JSON, and `joyfear` to Python.
"""

from __future__ import annotations

import re

ARRAY = "the labels are an array as NumPy or pandas prints it"
NUMBERS = "the labels are an array of numbers as NumPy prints it"
_NUMBER = r"(?:[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|True|False|None|nan|[+-]?inf|\.\.\.)"
_ITEM = rf"(?:{_NUMBER}|<NA>|b?'(?:[^'\\]|\\.)*'|b?\"(?:[^\"\\]|\\.)*\")"
_WITHOUT_COMMAS = re.compile(
    rf"\[[\s\[]*(?:{_ITEM}\s*,\s*)*{_ITEM}[\s\[\]]+{_ITEM}(?:[\s,\[\]]+{_ITEM})*[\s\]]*\]", re.DOTALL
)
_OF_NUMBERS = re.compile(rf"[\s,\[\]]*(?:{_NUMBER}[\s,\[\]]+)*")
_SCALARS = re.compile(rf"[\[({{]\s*(?:{_ITEM}\s*:\s*)?(?:np\.(?:\w+\(|True_|False_)|array\()")
"""A list of NumPy's values: `[np.str_('joy')]`."""
_OF_PANDAS = re.compile(r"<\w*Array>\s")
_OPENING = ("[", "(", "{", "<")


def refuse_printed(cell: str) -> None:
    """Raise ValueError if a label's cell holds an array as it is printed."""
    text = cell.strip()
    if not text.startswith(_OPENING):
        return
    if _WITHOUT_COMMAS.fullmatch(text):
        raise ValueError(NUMBERS if _OF_NUMBERS.fullmatch(text) else ARRAY)
    if _SCALARS.match(text) or _OF_PANDAS.match(text):
        raise ValueError(ARRAY)
