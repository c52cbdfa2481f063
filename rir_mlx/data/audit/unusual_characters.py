"""Texts that may be none: invisible characters, control tokens, mojibake, and what stands for a missing value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rir_mlx.data.labels.spelling import MISSING
from rir_mlx.types import Severity

_CONTROL = re.compile(r"<\|[\w. -]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk)>|\[/?INST\]|<(?:start|end)_of_turn>")
"""Control tokens of common models, for when the model's own are not known."""
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e0019]"
)
"""Control characters except tab and line ends, and characters that print nothing, except the joiners and tags that
scripts, emojis and flags are made with."""
_BROKEN = re.compile("\ufffd|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac")
"""The replacement character, and UTF-8 that was read as Latin-1 or Windows-1252 (`Ã©`, `â€™`)."""

_MISSING = re.compile(rf"\s*(?:{'|'.join(map(re.escape, sorted(MISSING)))}|Err:\d{{3}})\s*")


@dataclass(frozen=True)
class Kind:
    """A kind of unusual characters. `what` describes texts that hold them; `hint` says what to do."""

    name: str
    pattern: re.Pattern[str]
    what: str
    hint: str
    beyond_ascii: bool = False
    severity: Severity = "note"
    whole: bool = False
    """Whether the pattern is to fit the whole text."""

    def search(self, text: str) -> str | None:
        """The first match in a text."""
        if self.beyond_ascii and text.isascii():
            return None
        hit = self.pattern.fullmatch(text) if self.whole else self.pattern.search(text)
        return hit[0] if hit else None


def unusual_kinds(control: Sequence[str] = ()) -> tuple[Kind, ...]:
    """The kinds to look for. `control` are the model's own control tokens."""
    own = "|".join(map(re.escape, sorted(control, key=len, reverse=True)))
    return (
        Kind(
            "control tokens",
            re.compile(own) if own else _CONTROL,
            "texts that spell a control token",
            "Harmless: they are read as plain text. They may be left over from where the rows come from.",
        ),
        Kind(
            "invisible characters",
            _INVISIBLE,
            "texts with control or invisible characters",
            "People do not see them, but the model does: take them out.",
        ),
        Kind(
            "broken characters",
            _BROKEN,
            "texts with mojibake: characters of a file that was read in a wrong encoding",
            "Export the rows again as UTF-8.",
            beyond_ascii=True,
        ),
        Kind(
            "missing texts",
            _MISSING,
            "texts that stand for a missing value",
            "They are trained on as texts: take these rows out.",
            severity="warning",
            whole=True,
        ),
    )


def visible(text: str) -> str:
    """Visible characters as they are, others by their code points."""
    return text if text.isprintable() and "\ufffd" not in text else " ".join(f"U+{ord(sign):04X}" for sign in text)
