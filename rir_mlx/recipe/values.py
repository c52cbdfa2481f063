"""What the values of keys may be, beyond their types."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

ENOUGH_OWN_REASONINGS = 100
"""From so many reasonings of the user's own on, R-Gen can learn from them alone."""


_LARGEST = 2**63 - 1
"""The largest whole number that arrays hold."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _a_truth_value_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic reads `true` as 1, and YAML reads `yes` and `on` as `true`."""
        kinds = _kinds_in(cls.model_fields[info.field_name or ""].annotation)
        items = value if isinstance(value, list) else [value]
        if kinds & {int, float} and bool not in kinds and any(isinstance(item, bool) for item in items):
            raise ValueError("should be a number")
        if any(isinstance(item, int) and abs(item) > _LARGEST for item in items):
            raise ValueError(f"should be at most {_LARGEST:,}")
        return value


def _kinds_in(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    return {annotation}.union(*(_kinds_in(inner) for inner in get_args(annotation)))


Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=_LARGEST)]
"""What every generator of random numbers takes."""


def _labels_from_list(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(name, (list, dict, tuple)) for name in value):
        raise ValueError("a list of labels holds names alone; with descriptions, write a mapping ({joy: glad, fear: })")
    pairs = dict.fromkeys(value, "") if isinstance(value, list) else value
    if not isinstance(pairs, dict):
        return value
    if any(isinstance(name, bool) for name in pairs):
        raise ValueError("YAML reads yes, no, on, off, true and false as truth values: put such labels in quotes")
    names = [str(name).strip() for name in (value if isinstance(value, list) else pairs)]
    if None in pairs or "" in names:
        raise ValueError("a label has no name: put null and ~ in quotes if they are labels")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]!r} comes twice")
    if len(names) > len(pairs):  # YAML's 1 and 1.0 are one key
        raise ValueError(f"{', '.join(names)}: two of these are one number")
    return {str(name): "" if what is None else what for name, what in pairs.items()}


def _written_as_text(value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise ValueError("should be a text: put it in quotation marks")
    return value


def _column_names(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return _written_as_text(value)
    names = [_written_as_text("" if name is None else name) for name in value]
    if not names or "" in names:
        raise ValueError("a column's name is missing: put null and ~ in quotation marks if columns are called so")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]!r} comes twice")
    return names[0] if len(names) == 1 else tuple(names)


def _label_name(value: Any) -> Any:
    if isinstance(_written_as_text(value), str) and (not value.strip() or ", " in value):
        raise ValueError("should be a label, without a comma and a blank")
    return value if value is None else value.strip()


ColumnNames = Annotated[str | tuple[str, ...] | None, BeforeValidator(_column_names)]
"""A column, or several that are read together."""
LabelName = Annotated[str | None, BeforeValidator(_label_name)]


def _share_or_count(value: float) -> float:
    if value > 1 and not value.is_integer():
        raise ValueError("should be a share below 1, or a whole number of rows")
    return value


Size = Annotated[float, AfterValidator(_share_or_count)]
"""Rows for a part of the data: a share below 1, or a number."""


def delimiter_mark(value: Any) -> Any:
    """The character that a delimiter's name stands for. Raises ValueError if it is none."""
    if not isinstance(value, str):
        return value
    mark = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}.get(value, value)
    if len(mark) != 1 or mark in '"\r\n ':
        raise ValueError("must be one character, or tab, comma, semicolon or pipe")
    return mark


def text_encoding(value: str | None) -> str | None:
    """The name of an encoding. Raises ValueError if there is none of that name."""
    try:
        known = value is None or codecs.lookup(value)._is_text_encoding
    except (LookupError, ValueError):
        known = False
    if not known:
        raise ValueError("must be the name of a text encoding, such as cp1252, latin-1 or utf-16")
    return value


Delimiter = Annotated[str | None, BeforeValidator(delimiter_mark)]
Encoding = Annotated[str | None, AfterValidator(text_encoding)]
Labels = Annotated[dict[str, str], BeforeValidator(_labels_from_list)]
