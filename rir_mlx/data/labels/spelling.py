"""The one rule that turns a cell into a label, for every format and for the Python API.

Spellings of one label become one: whole numbers by their digits (`1`, `1.0`), truth values in small letters (`True`,
`TRUE`), white space once and none at the ends. A label that the recipe names is kept as it is named. What programs
write for a missing value is no label. Labels that differ in letter case stay apart; `alike` finds them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any

from rir_mlx.data.cells import checked_text
from rir_mlx.data.labels.printed_arrays import refuse_printed

MISSING = frozenset(
    (
        *("#N/A", "#NA", "<NA>", "N/A", "n/a", "NA", "NULL", "null", "NaN", "-NaN", "nan", "-nan", "None", "NaT"),
        *("\\N", "(null)", "(NULL)", "<null>", "<NULL>", "[NULL]", "<missing>"),
        *("#N/A N/A", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
        *("#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#SPILL!", "#CALC!", "#GETTING_DATA"),
        *("#NV", "#WERT!", "#BEZUG!", "#ZAHL!", "#VALEUR!", "#NOMBRE!"),
    )
)
"""What pandas, NumPy, R, C, data bases and spreadsheets write for a missing value, and spreadsheets for one that
failed. LibreOffice writes a number: `Err:502`."""
_FAILED = re.compile(r"Err:\d{3}", re.ASCII)
_DOUBTFUL = frozenset(("nil", "n.a.", "unknown", "inf", "-inf", "infinity", "-infinity"))
"""What may stand for a missing value, in small letters, and may be a label as well."""
_NOTHING = ("?", "-", "--", ".", "…", "–", "—")
_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d{1,3})?", re.ASCII)
_TRUTH = ("true", "false")

_UNSEEN = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Characters that print nothing: Unicode's Default_Ignorable_Code_Point."""
_SIGNS = str.maketrans(
    dict.fromkeys("‘’‚‛′ʼ`´", "'") | dict.fromkeys("“”„‟″", '"') | dict.fromkeys("‐‑‒–—―−﹘﹣－", "-")
)
_LETTERS = str.maketrans("авекмнорстухіјѕһοικρχ", "abekmhopctyxijshoikpx")
"""Cyrillic and Greek letters that look like Latin ones, small or as capitals."""

Spellings = dict[str, Counter[str]]
"""How often each spelling of a label occurs, by the label."""


def is_missing(plain: str) -> bool:
    """Whether a program writes this for a missing value or one that failed."""
    return plain in MISSING or _FAILED.fullmatch(plain) is not None


def label_of(value: Any, known: Collection[str] = (), classes: tuple[str, ...] | None = None) -> str:
    """The label in a cell. `known` are the labels that the recipe names; `classes` the names of class ids.

    Raises ValueError if there is none, saying why."""
    value = _without_numpy(value)
    if isinstance(value, bool):
        return _as_known(str(value).lower(), known)
    if isinstance(value, float):
        if math.isnan(value):
            value = None
        elif value.is_integer():  # a column of whole numbers with gaps
            value = int(value)
        else:
            value = repr(value)
    if isinstance(value, int):
        if classes is None:
            return _as_known(str(value), known)
        if value == -1:  # how data sets mark rows whose labels are withheld
            value = None
        elif 0 <= value < len(classes):
            return classes[value]
        else:
            raise ValueError(f"class id {value} has no name among {len(classes)}")
    text = format(value, "f") if isinstance(value, Decimal) else checked_text(value, "label")
    return _label_of_text(text, known)


def _label_of_text(text: str, known: Collection[str]) -> str:
    if text in known:
        return text
    plain = " ".join(text.split())
    if plain in known:
        return plain
    if is_missing(plain):
        raise ValueError(f"the label is missing ({plain})")
    refuse_printed(plain)
    if (whole := _WHOLE.fullmatch(plain)) is not None:
        plain = whole[1]
    elif plain.lower() in _TRUTH:
        plain = plain.lower()
    return _as_known(plain, known)


def _as_known(plain: str, known: Collection[str]) -> str:
    """The name of a label that is known by another spelling of the same value."""
    if not known or plain in known:
        return plain
    if plain in _TRUTH:
        return next((name for name in known if name.lower() == plain), plain)
    return next((name for name in known if (whole := _WHOLE.fullmatch(name)) and whole[1] == plain), plain)


def _without_numpy(value: Any) -> Any:
    """A NumPy number or truth value as Python has it. A number of few bits keeps its digits: 0.1 as float32 is 0.1."""
    if not hasattr(value, "item") or getattr(value, "ndim", None) != 0:
        return value
    plain = value.item()
    return float(str(value)) if isinstance(plain, float) else plain


def spelling_of(value: Any) -> str:
    """How a label is spelled in its cell."""
    return value if isinstance(value, str) else str(_without_numpy(value))


def merged(spellings: Mapping[str, Counter[str]]) -> Spellings:
    """The labels with more than one spelling."""
    return {label: counts for label, counts in spellings.items() if len(counts) > 1}


def alike(labels: Iterable[str]) -> list[list[str]]:
    """Labels that a reader takes for one: those that differ in letter case, forms of Unicode, quotation marks, dashes,
    letters of another script that look the same, characters that print nothing, or how a number is written."""
    groups = defaultdict(list)
    for label in dict.fromkeys(labels):
        groups[_as_read(label)].append(label)
    return [names for names in groups.values() if len(names) > 1]


def _as_read(label: str) -> str | Decimal:
    """What a reader sees in a label."""
    seen = "".join(sign for sign in _UNSEEN.sub("", label) if unicodedata.category(sign) not in ("Cc", "Cf"))
    plain = " ".join(unicodedata.normalize("NFKC", seen.translate(_SIGNS)).casefold().translate(_LETTERS).split())
    return Decimal(plain) if _NUMBER.fullmatch(plain) else plain


def doubtful(labels: Iterable[str]) -> list[str]:
    """Labels that may stand for a missing value: in other letters than programs write it, a usual sign for it, or the
    only label without a letter, digit or symbol: several are a scale, as stars are, or `-` beside `+`."""
    labels, missing = list(labels), {name.casefold() for name in MISSING} | _DOUBTFUL
    bare = [label for label in labels if not any(map(_says_something, label))]
    signs = () if "+" in labels else (*_NOTHING, *(bare if len(bare) == 1 else ()))
    return [label for label in labels if label.casefold() in missing or label in signs]


def _says_something(sign: str) -> bool:
    """Whether it is a letter, a digit, a symbol, or the frame of an emoji."""
    category = unicodedata.category(sign)
    return category[0] in "LNS" or category == "Me"
