"""The parts of a classifier's prompt around a text, and the text that stands for a row wherever something is published.

Cards, Modelfiles and the trained arm share them; nothing here knows any of the three.
"""

from __future__ import annotations

import sys

from rir_mlx.errors import Failure
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import Prompt, reasons_first
from rir_mlx.types import Arm, Way

MADE_UP = "This is a made-up text, to show how the classifier is asked."
"""The text of the example. Never a row of the data, since a card is published."""


def way_of(arm: Arm) -> Way:
    """The way the example scores labels, which decides the temperature that calibrates its probabilities."""
    return "reasoned" if reasons_first(arm) else "direct"


def prompt_around(codec: Codec, prompt: Prompt) -> tuple[str, str, str]:
    """The parts around a prompt's text: the chat template before the message, the constant part of the message, which
    comes from the user, and everything after the text. Tokenised separately, the middle part without control tokens,
    they give the codec's ids.

    Raises Failure if they do not."""
    encoded = codec.encode(prompt, sys.maxsize)
    text = codec.given(prompt.text)
    after = codec.decode(encoded.row[len(text) :])
    question = "".join(piece.text for piece in prompt.prefix)
    before = codec.decode(encoded.prefix).removesuffix(question)
    if before.endswith(" ") and codec.spelt(before) + codec.given(question) != encoded.prefix:
        before, question = before[:-1], f" {question}"  # the space belongs to the first word of the message
    ids = codec.spelt(before) + codec.given(question) + text + codec.spelt(after)
    if ids != encoded.prefix + encoded.row:
        raise Failure(
            "The parts of the prompt have other ids when tokenised separately, so no example can be written.",
            hint="Please report this, with the name of the base model.",
        )
    return before, question, after
