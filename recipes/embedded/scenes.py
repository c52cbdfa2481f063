"""What happens in the synthetic world: behaviour and words by feeling, and the plain things around them.

A slot such as `{person}` is filled by `world.Writer`.
"""

from __future__ import annotations

from lexicon import feelings

LABELS = ("joy", "sadness", "anger", "fear")

SIGNS: dict[str, tuple[str, ...]] = {
    "joy": ("happiness", "delight"),
    "sadness": ("sorrow", "gloom"),
    "anger": ("rage", "resentment"),
    "fear": ("dread", "worry"),
}
"""Other words for a label, with which a reasoning ends."""

BEHAVIOUR: dict[str, tuple[str, ...]] = {
    "joy": (
        "keep humming", "grin at strangers", "clap and cheer", "whistle loudly", "laugh at every joke",
        "dance around the kitchen", "sing along", "jump up and down", "smile at everybody", "celebrate with cake",
    ),
    "sadness": (
        "keep crying", "stay in bed", "stare at the wall", "weep over photos", "sigh all day",
        "sit in the dark", "miss the old days", "curl up and weep", "lose all hope", "wipe away tears",
    ),
    "anger": (
        "slam every door", "scream at people", "clench both fists", "throw plates", "grind both teeth",
        "swear and curse", "punch the pillow", "yell at the neighbors", "kick the chair", "stamp both feet",
    ),
    "fear": (
        "keep trembling", "hide under blankets", "check the lock again", "run away", "jump at every sound",
        "freeze at every noise", "bite every nail", "shiver in the corner", "lie awake", "whisper and tremble",
    ),
}  # fmt: skip
"""What the writer does now, after `i`."""

TURNS = (
    "{person} called",
    "the {thing} arrived",
    "i read the {note}",
    "we talked in the {place}",
    "i saw the {thing}",
    "{person} came to the {place}",
    "i heard about the {thing}",
    "the {exam} was over",
    "i met {person} at the {place}",
    "we got to the {place}",
    "{person} told me about the {thing}",
)
"""What changed a feeling. None of them says into which."""

FILLERS = (
    "it is {day} and it rains",
    "we had {food} for {meal}",
    "the bus was late as always",
    "i am at the {place} now",
    "{person} is sitting next to me",
    "i just came back from the {place}",
    "the {thing} is on the table",
    "it is almost {day} again",
    "the tea is getting cold",
    "i write this in the {room}",
    "{person} brought the {thing}",
    "the radio is on",
    "i have been at the {place} since {day}",
    "there is {food} on the stove",
)
"""Sentences without a feeling."""

SLOTS: dict[str, tuple[str, ...]] = {
    "room": ("kitchen", "bathroom", "hallway", "attic", "basement", "bedroom", "garage"),
    "match": ("match", "final", "race", "game", "cup", "derby"),
    "exam": ("exam", "test", "driving test", "interview", "audition", "trial", "defence"),
    "pet": ("dog", "cat", "puppy", "rabbit", "horse", "bird", "kitten"),
    "meal": ("breakfast", "lunch", "dinner", "supper", "party"),
    "shop": ("shop", "bank", "airline", "phone company", "hotel", "insurance", "agency"),
    "vehicle": ("car", "bus", "truck", "train", "bike"),
    "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "note": ("letter", "email", "message", "note", "report", "review"),
}
"""Words for slots; `person`, `thing`, `place`, `food` come from the lexicon."""

FELT: dict[str, tuple[str, ...]] = {label: feelings(label) for label in LABELS}
"""The adjectives of the data set."""
