"""The forms of a sentence in the synthetic world, each with the reasonings that explain it.

Upper-case words are slots of `world.Writer.sample`: NOW is the clause that carries the label and CUE its telling part;
OTHER, NOUN, EFFECT, BEHAVIOUR and SECOND belong to a feeling that is not the label.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """`kind` is the step that the reader has to take, `weight` how often the pattern is drawn."""

    kind: str
    weight: float
    text: str
    reasons: tuple[str, ...]


PATTERNS = (
    # The feeling is named or shown, and there is no other.
    Pattern("plain", 6, "NOW", ("The writer says it plainly: CUE, a sign of SIGN.",)),
    Pattern("plain", 4, "NOW. FILLER", ("The rest is plain news. Only this tells of a feeling: CUE, a sign of SIGN.",)),
    Pattern("plain", 4, "FILLER. NOW", ("The news means little. The cue is: CUE, a sign of SIGN.",)),
    Pattern("plain", 4, "EVENT, and NOW", ("WHY, so the writer says: CUE, a sign of SIGN.",)),
    # Something happened, and no feeling is named.
    Pattern(
        "event",
        11,
        "EVENT",
        ("WHY. For the writer this brings SIGN.", "No feeling is named, but WHY. It brings SIGN."),
    ),
    Pattern("event", 5, "EVENT. FILLER", ("WHY. The rest is plain news, so this brings SIGN.",)),
    Pattern("event", 5, "FILLER. EVENT", ("The first words are plain news. Then WHY, which brings SIGN.",)),
    # There was another feeling before.
    Pattern(
        "past",
        4,
        "i was OTHER until TURN, now NOW",
        (
            "Being OTHER was before. Now the cue is: CUE, a sign of SIGN.",
            "The word until ends OTHER. What counts now is: CUE, a sign of SIGN.",
        ),
    ),
    Pattern(
        "past", 4, "NOW now, TIME i was still OTHER", ("Being OTHER is past. The cue for now is: CUE, a sign of SIGN.",)
    ),
    Pattern(
        "past",
        3,
        "TIME i was OTHER about the THING. then TURN, and NOW",
        ("Being OTHER was TIME. After that comes: CUE, a sign of SIGN.",),
    ),
    Pattern(
        "past", 3, "the NOUN is gone since TURN. NOW", ("The NOUN is gone. What is left is: CUE, a sign of SIGN.",)
    ),
    Pattern("past", 3, "NOW. the NOUN is over", ("The NOUN is over. The writer now says: CUE, a sign of SIGN.",)),
    Pattern(
        "past",
        3,
        "TIME i said: i BEHAVIOUR. that is over, NOW",
        ("What was said TIME is over. The cue for now is: CUE, a sign of SIGN.",),
    ),
    Pattern(
        "past", 4, "years ago SECOND. today EVENT", ("The first part is years ago. Today WHY, which brings SIGN.",)
    ),
    Pattern("past", 3, "EVENT. years ago SECOND", ("Years ago does not count. Now WHY, which brings SIGN.",)),
    # Another feeling is denied, expected or dreamed.
    Pattern(
        "denied",
        4,
        "i am not OTHER anymore, only ADJ",
        ("The word not takes OTHER away. Only this is left: ADJ, a sign of SIGN.",),
    ),
    Pattern(
        "denied",
        3,
        "i am ADJ and not at all OTHER",
        ("The word not denies OTHER. What stays is: ADJ, a sign of SIGN.",),
    ),
    Pattern(
        "denied",
        4,
        "nothing about the THING EFFECT me, NOW",
        ("Nothing EFFECT the writer. The cue is: CUE, a sign of SIGN.",),
    ),
    Pattern(
        "denied",
        4,
        "i thought i would be OTHER about the THING, but NOW",
        ("Being OTHER was only expected. After but comes: CUE, a sign of SIGN.",),
    ),
    Pattern(
        "denied",
        3,
        "NOW, not OTHER as PERSON thinks",
        ("PERSON is wrong about OTHER. The writer says: CUE, a sign of SIGN.",),
    ),
    Pattern(
        "denied",
        3,
        "i dreamed that SECOND, but i woke up and NOW",
        ("The first part was a dream. Awake, the writer says: CUE, a sign of SIGN.",),
    ),
    Pattern(
        "denied",
        3,
        "it was only in a film that SECOND. here EVENT",
        ("The first part is only a film. Here WHY, which brings SIGN.",),
    ),
    # Another feeling is somebody else's.
    Pattern(
        "someone",
        4,
        "PERSON was OTHER about the THING, NOW",
        ("PERSON was OTHER, not the writer. The writer says: CUE, a sign of SIGN.",),
    ),
    Pattern(
        "someone",
        4,
        "NOW while PERSON is OTHER",
        ("Being OTHER belongs to PERSON. The writer says: CUE, a sign of SIGN.",),
    ),
    Pattern(
        "someone",
        4,
        "PERSON is OTHER, but EVENT",
        ("Being OTHER is how PERSON feels. But WHY, and for the writer this brings SIGN.",),
    ),
    Pattern(
        "someone",
        3,
        "PERSON asked if i was OTHER. no, NOW",
        ("The answer to OTHER is no. Then comes: CUE, a sign of SIGN.",),
    ),
    Pattern(
        "someone",
        3,
        "PERSON says: i BEHAVIOUR. but NOW",
        ("The first words are those of PERSON. The writer says: CUE, a sign of SIGN.",),
    ),
    Pattern(
        "someone",
        3,
        "NOW. PERSON has the opposite news: SECOND",
        ("The news belongs to PERSON. The writer says: CUE, a sign of SIGN.",),
    ),
)
