"""Seeded changes to bytes, text, and JSON values."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

SIGNS = ('"', '""', "'", ",", ";", "\t", "|", "\n", "\r", "\r\n", " ", "\0", "\ufeff", "é", "\u2028", "\x0b", "nan")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", " ", "x", "é\ud800"),
    *([], {}, [None], {"a": 1}, [[]], "1", "1.0", "true", "../../etc", "<|eot_id|>", "a" * 5000),
)
"""What nobody expects in a place."""


def mutated_text(text: str, rng: random.Random, signs: Sequence[str] = SIGNS) -> str:
    """Up to four signs put in, pieces taken out or doubled."""
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(text) + 1)
        piece = text[place : place + rng.choice((1, 1, 1, 5, 30))]
        match rng.randrange(4):
            case 0 | 1:
                text = text[:place] + rng.choice(signs) + text[place:]
            case 2:
                text = text[:place] + text[place + len(piece) :]
            case 3:
                text = text[:place] + piece + text[place:]
    return text


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, put in, taken out, or cut off at the end."""
    held = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(held) + 1)
        match rng.randrange(5):
            case 0 if place < len(held):
                held[place] ^= 1 << rng.randrange(8)
            case 1:
                held[place:place] = rng.randbytes(rng.choice((1, 1, 2, 9)))
            case 2:
                del held[place : place + rng.choice((1, 1, 4, 50))]
            case 3 if rng.random() < 0.2:
                del held[place:]
            case _:
                held[place:place] = rng.choice(SIGNS).encode()
    return bytes(held)


def mutated_value(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value in which something is replaced, taken out, renamed or added."""
    copy = json.loads(json.dumps(value))
    places = [(copy, key) for key in _keys(copy)]
    for holder, key in places:  # grows while it is read
        places += [(holder[key], inner) for inner in _keys(holder[key])]
    for holder, key in rng.sample(places, min(len(places), rng.randint(1, 2))):
        match rng.randrange(5):
            case 0 if isinstance(holder, dict):
                holder.pop(key, None)
            case 1 if isinstance(holder, dict) and key in holder:
                holder[f"{key}{rng.choice('sx_ ')}"] = holder.pop(key)
            case 2 if isinstance(holder, dict):
                holder[rng.choice(("zzz", "", "é", "__metadata__"))] = rng.choice(VALUES)
            case _ if isinstance(holder, list) or key in holder:
                holder[key] = rng.choice(VALUES)
    return copy


def _keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []
