"""What the tiny model reads before it is fine-tuned: what words mean, diary lines, stories, and questions with answers.

A stand-in for what an instruct model has read. Three things are left out on purpose: the demo's task (which of four
feelings the writer has now), its labels as answers, and the sentences of its validation and test files, together with
all that differ from them only in names, things, places, times, contractions or adverbs (`Held`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import lexicon
from knowledge import FAMILIES, SIGNS_OF, Knowledge
from questions import Questions
from scenes import SLOTS
from world import CASUAL, Writer, draw_world

WHY = (
    "Explain this step by step.",
    "Why is that the answer?",
    "What in the text leads to the answer?",
    "Give the reason in a sentence or two.",
    "Which words decide it, and why?",
)
"""How the chats ask for the steps to a given answer; R-Gen's own prompt is not among them."""
HOW = ("Think first, then give the answer.",)
"""How they ask for an answer. It always comes behind its steps; the classifier's own prompts are not among them."""

SHARES = (0.32, 0.03, 0.03, 0.32, 0.15, 0.15)
"""How often each kind of document is drawn: meanings, diary lines, echoes, texts with steps, explanations, answers."""


@dataclass(frozen=True)
class Document:
    """Running text, or where `ask` is given a turn of a chat: the user's message, of which nothing is learned, and the
    reply.

    `marked` is the text or reply. Where it has marks `⟦ ⟧`, the words between them are learned: they follow from what
    stands before, and the rest is drawn by lot, which nobody can learn.
    """

    marked: str
    ask: str = ""

    @property
    def text(self) -> str:
        return self.marked.replace("⟦", "").replace("⟧", "")

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """The text in stretches, and whether each is learned."""
        parts = re.split("[⟦⟧]", self.marked)
        return [(part, number % 2 == 1 or len(parts) == 1) for number, part in enumerate(parts) if part]


@cache
def _fillers() -> tuple[frozenset[str], tuple[str, ...]]:
    """What may stand in a sentence's slots: names, people, things, places, times and the like; single words and
    phrases, the longest first."""
    lists = (
        lexicon.NAMES,
        lexicon.PEOPLE,
        lexicon.THINGS,
        lexicon.PLACES,
        lexicon.FOOD,
        lexicon.times(),
        *SLOTS.values(),
    )
    found = {word for words in lists for word in words}
    phrases = sorted((word for word in found if " " in word), key=lambda phrase: (-len(phrase), phrase))
    return frozenset(found.difference(phrases)), tuple(f" {phrase} " for phrase in phrases)


def normal_form(text: str) -> str:
    """A text without what makes two sentences of one template differ: fillers become `_`; contractions, adverbs and the
    ways to say "i feel" become one; case and punctuation go."""
    single, phrases = _fillers()
    plain = f" {' '.join(re.findall(r'[a-z0-9]+', text.lower().replace(chr(39), '')))} "
    for phrase, instead in (*_ONE_WAY, *((phrase, " _ ") for phrase in phrases)):
        while phrase in plain:
            plain = plain.replace(phrase, instead)
    words = ("_" if word in single else word for word in plain.split() if word not in _ADVERBS)
    return f" {' '.join(words)} ".replace(" my _", " _").strip()


_ONE_WAY = (
    *((f" {short} ", f" {full} ") for full, short in CASUAL),
    *((f" i {verb} ", " i feel ") for verb in ("am feeling", "am")),
)
_ADVERBS = {part for adverb in lexicon.ADVERBS for part in adverb.split()}


class Held:
    """Texts that are held out, and whether another text holds the normal form of one of them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.starts: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for text in texts:
            words = tuple(normal_form(text).split())
            self.starts.setdefault(words[:3], set()).add(words)

    def inside(self, text: str) -> bool:
        words = tuple(normal_form(text).split())
        return any(
            words[place : place + len(held)] == held
            for place in range(len(words) - 2)
            for held in self.starts.get(words[place : place + 3], ())
        )


def reader(seed: int) -> Reader:
    """What draws the documents that the model reads, for a world drawn by `seed`."""
    splits, _ = draw_world(seed)
    return Reader(seed + 1, Held(row.text for name in ("validation", "test") for row in splits[name]))


class Reader:
    """Draws documents. None holds a text of `held`, whatever its names and adverbs."""

    def __init__(self, seed: int, held: Held) -> None:
        self.writer = Writer(seed)
        self.rng = self.writer.rng
        self.held = held
        self.knowledge = Knowledge(self.writer)
        self.questions = Questions(self.writer, self.knowledge)

    def pick(self, options: tuple[str, ...]) -> str:
        return self.rng.choice(options)

    def noun_phrase(self) -> str:
        determiner = self.pick(("the", "a", "my", "this", "her", "his", "our", "their", "some", "your"))
        adjective = self.pick(lexicon.ADJECTIVES) + " " if self.rng.random() < 0.4 else ""
        lists = (lexicon.NOUNS, lexicon.NOUNS, lexicon.THINGS, lexicon.BODY, lexicon.ANIMALS)
        return f"{determiner} {adjective}{self.pick(self.rng.choice(lists))}"

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
        who, noun = self.writer.person(), self.pick(SIGNS_OF[family])
        forms = (
            f"i feel {adverb}{first}", f"i feel {first} and {two}", f"im feeling {adverb}{first} and {two}",
            f"i feel so {first} that {self.clause()}", f"i was feeling {first} because {self.clause()}",
            f"{self.clause()} and i feel {adverb}{first}", f"i feel {first} about {self.noun_phrase()}",
            f"i started to feel {adverb}{first} when {self.clause()}", f"i just feel {first}",
            f"ive been feeling {first} {self.pick(lexicon.times())}", f"i feel like {self.noun_phrase()} is {first}",
            f"i was {adverb}{first} and full of {noun}", f"{who} makes me feel {first}", f"i can feel the {noun}",
            f"i am left feeling {first}", f"i felt {adverb}{first}", f"i feel a bit {first} or even {two}",
            f"i dont know why i feel {adverb}{first}", f"i feel {first} for {who}",
        )  # fmt: skip
        return self.pick(forms)

    def diary(self) -> Document:
        """A few clauses of one feeling, so that its words come to stand near each other."""
        family = self.pick(FAMILIES)
        parts = [self.felt(family) for _ in range(self.rng.randint(1, 3))]
        if self.rng.random() < 0.3:
            parts.append(self.clause())
        return Document(". ".join(parts))

    def thesaurus(self) -> Document:
        """A few meanings, one after another."""
        return Document(". ".join(self.knowledge.statement() for _ in range(self.rng.randint(3, 6))))

    def echo(self) -> Document:
        """Words said twice: to quote a text, a model has to learn to copy first."""
        loose = " ".join(self.rng.choices(lexicon.all_words(), k=self.rng.randint(4, 12)))
        said = self.pick((loose, loose, self.clause(), self.felt(self.pick(FAMILIES))))
        joint = self.pick((". ", ", ", ". once more: ", ". the words were: "))
        return Document(f"{self.writer.person()} says: {said}{joint.rstrip()}⟦ {said}⟧")

    def told(self) -> Document:
        """A text, the steps to the answer of a question about it, the question and the answer."""
        puzzle = self.questions.puzzle()
        return Document(f"{puzzle.text}.⟦ {_sentences(puzzle.steps)}.⟧ {puzzle.question}⟦ {puzzle.answer}⟧")

    def explanation(self) -> Document:
        """A turn of a chat: a question and its answer, asking for the steps. Of the answer nothing is learned."""
        puzzle = self.questions.puzzle()
        question = f"Question: {puzzle.question} Text: {puzzle.text}\nAnswer: {puzzle.answer}"
        return Document(f"{_sentences(puzzle.steps)}.", ask=f"{self.pick(WHY)}\n\n{question}")

    def answer(self) -> Document:
        """A turn of a chat: a question, asking for the steps and then the answer."""
        puzzle = self.questions.puzzle()
        reply = f"{_sentences(puzzle.steps)}.\nAnswer: {puzzle.answer}"
        return Document(reply, ask=f"{puzzle.question} {self.pick(HOW)}\n\nText:\n{puzzle.text}")

    def document(self) -> Document:
        """One document of a kind drawn by its share, some of them with capitals."""
        kinds: tuple[Callable[[], Document], ...] = (
            self.thesaurus, self.diary, self.echo, self.told, self.explanation, self.answer,
        )  # fmt: skip
        while True:
            document = self.rng.choices(kinds, SHARES)[0]()
            if not self.held.inside(document.text) and not self.held.inside(document.ask):
                break
        if self.rng.random() < 0.15:
            return Document(_capitals(document.marked), _capitals(document.ask))
        return document


def _sentences(text: str) -> str:
    return re.sub(r"(^|[.] )([a-z])", lambda match: match.group(1) + match.group(2).upper(), text)


def _capitals(text: str) -> str:
    """Capitals where English has them: at the start of a sentence, in "I", in names and days."""
    names = "|".join((*lexicon.NAMES, *SLOTS["day"], "i", "im", "ive"))
    text = re.sub(rf"\b({names})\b", lambda match: match.group().capitalize(), text)
    return re.sub(r"(^|[.?!]⟦? |\n)([a-z])", lambda match: match.group(1) + match.group(2).upper(), text)
