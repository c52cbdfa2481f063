"""The forms of a sentence in the synthetic world, each with the reasonings that explain it.

Upper-case words are slots of `world.Writer.sample`: NOW is the clause that carries the label and CUE its telling part;
OTHER and BEHAVIOUR belong to a feeling that is not the label.
"""

from __future__ import annotations

from dataclasses import dataclass

CUE_SHOWS = "The cue CUE shows SIGN."
"""The end of every reasoning."""


@dataclass(frozen=True)
class Pattern:
    """`kind` is the step that the reader has to take, `weight` how often the pattern is drawn, `reason` why the rest of
    the text does not count."""

    kind: str
    weight: float
    text: str
    reason: str


PATTERNS = (
    # The feeling is named or shown, and there is no other.
    Pattern("plain", 2, "NOW", "The text says it plainly."),
    Pattern("plain", 2, "NOW. FILLER", "The rest is plain news."),
    Pattern("plain", 2, "FILLER. NOW", "The rest is plain news."),
    # There was another feeling before.
    Pattern("past", 3, "i was OTHER until TURN, now NOW", "Being OTHER is past."),
    Pattern("past", 3, "NOW now, TIME i was still OTHER", "Being OTHER is past."),
    Pattern("past", 3, "TIME i was OTHER about the THING. then TURN, and NOW", "Being OTHER is past."),
    Pattern("past", 2, "TIME i said: i BEHAVIOUR. that is over, NOW", "The first words are past."),
    # Another feeling is denied, expected or dreamed.
    Pattern("denied", 3, "i am not OTHER anymore, NOW", "Being OTHER is denied."),
    Pattern("denied", 3, "NOW and i am not at all OTHER", "Being OTHER is denied."),
    Pattern("denied", 3, "PERSON asked if i was OTHER. no, NOW", "Being OTHER is denied."),
    Pattern("denied", 3, "i thought i would be OTHER about the THING, but NOW", "Being OTHER was only expected."),
    Pattern("denied", 3, "i dreamed that i was OTHER, but i woke up and NOW", "Being OTHER was only a dream."),
    # Another feeling is somebody else's.
    Pattern("someone", 3, "PERSON is OTHER about the THING, but NOW", "Being OTHER is somebody else's."),
    Pattern("someone", 3, "NOW while PERSON is OTHER", "Being OTHER is somebody else's."),
    Pattern("someone", 3, "NOW, not OTHER like PERSON", "Being OTHER is somebody else's."),
    Pattern("someone", 2, "PERSON says: i BEHAVIOUR. but NOW", "The first words are somebody else's."),
)
"""Every kind of step, and the sentence about what does not count."""
