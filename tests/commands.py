"""Running `rir-mlx` in a test, and the small files that it is run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LABELS = ("joy", "sadness", "anger")
WORDS = {"joy": "i feel happy today", "sadness": "i was sad", "anger": "now i am angry at the rain"}


@dataclass
class Result:
    """What a command ended with."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


def write_csv(path: Path, rows: list[tuple[str, str]], header: str = "text,label") -> None:
    path.write_text(header + "\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
