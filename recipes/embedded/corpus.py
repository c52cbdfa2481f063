"""What the tiny model reads before it is fine-tuned: diary lines, a thesaurus in sentences, explanations, and chats.

A stand-in for what an instruct model has read. Two things are left out on purpose: the classifier's task, text →
label, which is what the demo trains, and the texts of the demo's data files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import lexicon
from scenes import BEHAVIOUR, EVENTS, FEELING_NOUNS, LABELS, SIGNS
from world import Sample, Writer

NOUNS_OF = FEELING_NOUNS | {
    "love": ("love", "affection", "tenderness", "devotion", "fondness"),
    "surprise": ("surprise", "amazement", "wonder", "astonishment", "shock"),
}
SIGNS_OF = SIGNS | {
    "love": ("a warm heart", "affection", "caring for somebody"),
    "surprise": ("wonder", "amazement", "not having expected it"),
}
ASKS = (
    "Explain this step by step.",
    "Why is that the answer?",
    "What in the text leads to the answer?",
    "Give the reason in a sentence or two.",
    "Which words decide it, and why?",
)
"""How the chats ask for a reasoning; R-Gen's own prompt is not among them."""


@dataclass(frozen=True)
class Document:
    """Running text, or where `ask` is given a chat: the user's message, of which nothing is learned, and the reply."""

    text: str
    ask: str = ""


class Held:
    """Texts that are held out, and whether another text holds one of them, whatever the punctuation and case."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.starts: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for text in texts:
            words = self.words(text)
            self.starts.setdefault(words[:2], []).append(words)

    @staticmethod
    def words(text: str) -> tuple[str, ...]:
        return tuple(re.findall(r"[a-z0-9']+", text.lower()))

    def inside(self, text: str) -> bool:
        words = self.words(text)
        return any(
            words[place : place + len(held)] == held
            for place in range(len(words))
            for held in self.starts.get(words[place : place + 2], ())
        )


class Reader:
    """Draws documents. None uses a sentence of `used` as a whole, and none holds a text of `held` anywhere."""

    def __init__(self, seed: int, used: set[str], held: Held) -> None:
        self.writer = Writer(seed)
        self.rng = self.writer.rng
        self.used = used
        self.held = held

    def pick(self, options: tuple[str, ...]) -> str:
        return self.rng.choice(options)

    def sample(self) -> Sample:
        """A sentence of the world that no data file holds."""
        while True:
            sample = self.writer.sample(self.pick(LABELS))
            if sample.text not in self.used:
                return sample

    def noun_phrase(self) -> str:
        determiner = self.pick(("the", "a", "my", "this", "her", "his", "our", "their", "some", "your"))
        adjective = self.pick(lexicon.ADJECTIVES) + " " if self.rng.random() < 0.4 else ""
        noun = self.pick(self.pick_list((lexicon.NOUNS, lexicon.NOUNS, lexicon.THINGS, lexicon.BODY, lexicon.ANIMALS)))
        return f"{determiner} {adjective}{noun}"

    def pick_list(self, options: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
        return self.rng.choice(options)

    def clause(self) -> str:
        """An everyday clause over the whole vocabulary; it need not make much sense."""
        verb = self.pick(lexicon.VERBS)
        third, past, ing = lexicon.verb_forms(verb)
        who, place, time = self.writer.person(), self.pick(lexicon.PLACES), self.pick(lexicon.times())
        loose = self.pick(lexicon.FUNCTION)
        thing = self.noun_phrase()
        forms = (
            f"i {past} {thing} {time}", f"i am {ing} {thing} in the {place}", f"i have to {verb} {thing} and {loose}",
            f"{who} {past} {thing}", f"{who} {third} {thing} at the {place}", f"i didnt {verb} {thing} {time}",
            f"{time} we {past} with {self.noun_phrase()}", f"{thing} is {self.pick(lexicon.ADJECTIVES)} {loose} {who}",
            f"i wanted to {verb} {thing} but i couldnt", f"ive been {ing} {thing} with {self.noun_phrase()}",
            f"i {self.pick(lexicon.IRREGULAR)} {loose} {thing}", f"i dont {verb} {self.pick(lexicon.ADVERBS)} often",
        )  # fmt: skip
        return self.pick(forms)

    def felt(self, family: str) -> str:
        """A clause that names a feeling of the family, in the ways of a diary."""
        words = lexicon.feelings(family)
        first, two = self.pick(words), self.pick(words)
        adverb = self.pick(("", "", "", self.pick(lexicon.ADVERBS) + " "))
        who, noun = self.writer.person(), self.pick(NOUNS_OF[family])
        forms = (
            f"i feel {adverb}{first}", f"i feel {first} and {two}", f"im feeling {adverb}{first} and {two}",
            f"i feel so {first} that {self.clause()}", f"i was feeling {first} because {self.clause()}",
            f"{self.clause()} and i feel {adverb}{first}", f"i feel {first} about {self.noun_phrase()}",
            f"i started to feel {adverb}{first} when {self.clause()}",
            f"ive been feeling {first} {self.pick(lexicon.times())}",
            f"i feel like {self.noun_phrase()} is {first}", f"i just feel {first}",
            f"i was {adverb}{first} and full of {noun}",
            f"{who} makes me feel {first}", f"i can feel the {noun}", f"i am left feeling {first}", f"i felt {adverb}{first}",
            f"i feel a bit {first} or even {two}", f"i dont know why i feel {adverb}{first}", f"i feel {first} for {who}",
        )  # fmt: skip
        return self.pick(forms)

    def diary(self) -> Document:
        """A few clauses of one feeling, so that its words come to stand near each other."""
        family = self.pick(tuple(NOUNS_OF))
        parts = [self.felt(family) for _ in range(self.rng.randint(1, 3))]
        if family in LABELS and self.rng.random() < 0.5:
            parts.append("i " + self.pick(BEHAVIOUR[family]).format(**self.writer.slots()))
        if family in LABELS and self.rng.random() < 0.5:
            parts.append(self.rng.choice(EVENTS[family])[0].format(**self.writer.slots()))
        self.rng.shuffle(parts)
        if self.rng.random() < 0.3:
            parts.append(self.clause())
        return Document(". ".join(parts))

    def meaning(self) -> str:
        """What a word for a feeling means."""
        family, other = self.rng.sample(tuple(NOUNS_OF), 2)
        words = lexicon.feelings(family)
        first, two, three = self.pick(words), self.pick(words), self.pick(words)
        noun, sign = self.pick(NOUNS_OF[family]), self.pick(SIGNS_OF[family])
        against = self.pick(lexicon.feelings(other))
        forms = [
            f"who is {first} feels {noun}", f"being {first} is a sign of {sign}", f"{first}, {two} and {three}: all {noun}",
            f"to be {first} is close to being {two}, not to being {against}", f"{first} is a word for {noun}",
            f"somebody who says {first} or {two} tells of {sign}", f"{noun} is {sign}", f"{family} brings {sign}",
            f"the word {first} is a sign of {sign}", f"{family} is another word for {noun}",
        ]  # fmt: skip
        if family in LABELS:
            behaviour = self.pick(BEHAVIOUR[family]).format(**self.writer.slots())
            event, why = (part.format(**self.writer.slots()) for part in self.rng.choice(EVENTS[family]))
            forms += [f"people {behaviour} when they are {first}", f"when {event}, people are {first} and {two}"]
            forms += [f"who says i {behaviour} is {first}", f"{why}, so people feel {first}"]
        return self.pick(tuple(forms))

    def thesaurus(self) -> Document:
        """A few meanings, one after another."""
        return Document(". ".join(self.meaning() for _ in range(self.rng.randint(1, 5))))

    def echo(self) -> Document:
        """Words said twice: to quote a text, a model has to learn to copy first."""
        vocabulary = lexicon.all_words()
        loose = " ".join(self.rng.choices(vocabulary, k=self.rng.randint(4, 12)))
        said = self.pick((loose, loose, self.clause(), self.felt(self.pick(tuple(NOUNS_OF)))))
        joint = self.pick((". ", ", ", ". once more: ", ". the words were: "))
        return Document(f"{self.writer.person()} says: {said}{joint}{said}")

    def told(self) -> Document:
        """A sentence of the world and where to look in it, without the feeling that follows."""
        sample = self.sample()
        return Document(f"{sample.text}. {sample.step}")

    def chat(self) -> Document:
        """A question with its answer, asking for the reasoning. Of the answer nothing is learned."""
        triple = self.writer.triple(self.sample())
        ask = f"{self.pick(ASKS)}\n\nQuestion: {triple['question']}\nAnswer: {triple['answer']}"
        return Document(triple["reasoning"], ask=ask)

    def document(self) -> Document:
        """One document of a kind drawn by its share."""
        kinds: tuple[Callable[[], Document], ...] = (self.diary, self.thesaurus, self.echo, self.told, self.chat)
        while True:
            document = self.rng.choices(kinds, (0.28, 0.24, 0.05, 0.10, 0.33))[0]()
            if not self.held.inside(document.text) and not self.held.inside(document.ask):
                return document
