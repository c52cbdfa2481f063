"""Short hashes of values and files, and which keys differ between two nested dictionaries."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def digest_of(values: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of anything that can be written as JSON."""
    return hashlib.sha256(json.dumps(plain_json(values), sort_keys=True).encode()).hexdigest()[:16]


def digest_of_list(values: Iterable[str]) -> str:
    """`digest_of` for a list of strings, which is never in memory as a whole."""
    digest = hashlib.sha256(b"[")
    for place, value in enumerate(values):
        digest.update((", " if place else "").encode() + json.dumps(value).encode())
    digest.update(b"]")
    return digest.hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def changes(before: Any, now: Any) -> list[str]:
    """What differs between two nested dictionaries, in words: `key was this, is that`; for hashes, what they stand for
    has changed."""
    old, new = _flatten(plain_json(before)), _flatten(plain_json(now))
    return [_in_words(key, old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)]


_STANDS_FOR = {
    "model": "the base model",
    "triples": "the reasoning triples",
    "own": "the rows with a reasoning of their own",
    "data": "the rows, labels or splits",
    "augmented": "the reasonings",
    "row_ids": "the places of the rows in their files",
    "test_ids": "the places of the test rows in their files",
    "writer.revision": "the base model",
    "writer.adapter": "R-Gen's adapter",
    "scorer.adapter": "R-Gen's adapter",
    "adapter": "the trained weights",
    "readings": "the trained weights or the prompt",
    "source.sha256": "the file",
    "files": "the encoder's files",
    "classifier": "the classifier",
}
_HASH = re.compile(r"(?=.*\d)[0-9a-f]{8,64}")


def _in_words(key: str, old: Any, new: Any) -> str:
    if any(isinstance(value, str) and _HASH.fullmatch(value) for value in (old, new)):
        what = _STANDS_FOR.get(key, key)
        return f"{what} {'have' if what.endswith('s') and what != key else 'has'} changed"
    return f"{key} was {_shown(old)}, is {_shown(new)}"


def _shown(value: Any) -> str:
    """A value in a sentence: a whole number without its point, an empty text as one."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if str(value).strip() else repr(value)


def plain_json(values: Any) -> Any:
    """The values as JSON returns them: tuples as lists, keys as text, NumPy's numbers as numbers, paths as text.

    Raises TypeError for anything else: as text it could not be told from text."""
    return json.loads(json.dumps(values, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {repr(value)[:60]}")


def _flatten(values: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {at: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{at}.{key}" if at else key)
    return flat
