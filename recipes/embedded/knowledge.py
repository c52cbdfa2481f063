"""What words mean, in sentences: which feeling an adjective or a behaviour is a sign of.

The sentences are about words and about other people, never about the writer of the demo's sentences. `⟦ ⟧` mark what
follows from the words before it, which is what the model learns (`corpus.Document`).
"""

from __future__ import annotations

import lexicon
from scenes import BEHAVIOUR, LABELS, SIGNS
from world import Writer

SIGNS_OF = SIGNS | {"love": ("affection", "fondness"), "surprise": ("wonder", "amazement")}
FAMILIES = tuple(SIGNS_OF)


class Knowledge:
    """Draws statements about the meaning of words."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.rng = writer, writer.rng
        self._words = [(word, family) for family in FAMILIES for word in lexicon.feelings(family)]

    def pick(self, options: tuple[str, ...]) -> str:
        return self.rng.choice(options)

    def sign(self, family: str) -> str:
        return self.pick(SIGNS_OF[family])

    def word(self, family: str) -> str:
        return self.pick(lexicon.feelings(family))

    def behaviour(self, family: str) -> str:
        """What people do who feel so."""
        return self.pick(BEHAVIOUR[family])

    def other(self, family: str) -> str:
        """Another feeling."""
        return self.pick(tuple(name for name in FAMILIES if name != family))

    def statement(self) -> str:
        """What a word, or now and then a behaviour, is a sign of. Every word is drawn equally often."""
        if self.rng.random() < 0.2:
            return self._of_behaviour(self.pick(LABELS))
        word, family = self.rng.choice(self._words)
        return self._of_a_word(word, family) if self.rng.random() < 0.7 else self._alike(word, family)

    def _of_a_word(self, word: str, family: str) -> str:
        sign, against = self.sign(family), self.sign(self.other(family))
        forms = (
            f"the word {word} shows⟦ {sign}⟧", f"the cue {word} shows⟦ {sign}⟧", f"to be {word} shows⟦ {sign}⟧",
            f"the word {word} shows⟦ {sign}⟧, not {against}", f"who is {word} feels⟦ {sign}⟧",
            f"what does it show to be {word}?⟦ {sign}⟧",
        )  # fmt: skip
        return self.pick(forms)

    def _alike(self, word: str, family: str) -> str:
        two, three, against = self.word(family), self.word(family), self.word(self.other(family))
        either = self.pick((f"{two} or like {against}", f"{against} or like {two}"))
        which = self.pick((f"{word} or {against}", f"{against} or {word}"))
        sign = self.sign(family)
        forms = (
            f"is {word} more like {either}? like⟦ {two}⟧", f"which word shows {sign}, {which}?⟦ {word}⟧",
            f"the words {word}, {two} and {three} show⟦ {sign}⟧", f"{word} like {two} shows⟦ {sign}⟧",
        )  # fmt: skip
        return self.pick(forms)

    def _of_behaviour(self, family: str) -> str:
        done, sign = self.behaviour(family), self.sign(family)
        forms = (
            f"people who {done} show⟦ {sign}⟧", f"to {done} shows⟦ {sign}⟧", f"the cue {done} shows⟦ {sign}⟧",
            f"the cue {done} shows⟦ {sign}⟧, not {self.sign(self.other(family))}",
        )  # fmt: skip
        return self.pick(forms)
