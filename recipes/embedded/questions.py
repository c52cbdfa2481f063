"""Questions with a text, an answer, and the steps between them: where, when, who, what, which.

None is the demo's question. They are about things and about other people, and their answers are places, days, persons,
jobs, colours, causes, or another word for how somebody is. Their texts teach to follow "was … until … now", negation,
dreams, hearsay, and what belongs to somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass

import lexicon
from knowledge import FAMILIES, Knowledge
from scenes import FILLERS, LABELS, SLOTS, TURNS
from world import Writer

JOBS = lexicon.words("baker driver nurse teacher farmer painter singer cook doctor builder writer guard pilot judge")
COLOURS = lexicon.words("red green blue yellow black white grey pink brown golden")
COMPARED = lexicon.words("heavier older bigger smaller cheaper faster longer younger")
CAUSES = (
    ("the {place} is closed", "there is no power"), ("the road is wet", "it rained all night"),
    ("the {food} is cold", "it came out of the kitchen an hour ago"), ("the bus is late", "there is snow on the road"),
    ("the {vehicle} does not start", "there is no gas left"), ("the lamp is dark", "its plug is out"),
    ("the {pet} barks", "somebody is at the door"), ("the window is broken", "a ball flew into it"),
    ("the {thing} is cheap", "it is old"), ("the room is warm", "the sun was on it all day"),
    ("the {match} was moved", "it rains on {day}"), ("the {place} is full", "a concert is on"),
    ("the {thing} is wet", "it lay in the rain"), ("the child is tired", "it went to bed late"),
    ("the tree fell", "the storm was too strong"), ("the {shop} is rich", "everybody buys there"),
)  # fmt: skip
"""(what is so, and why)."""


@dataclass(frozen=True)
class Puzzle:
    """A question about a text, its answer, and the steps that lead to it."""

    text: str
    question: str
    answer: str
    steps: str


@dataclass(frozen=True)
class State:
    """How something is: `word` ("in the attic"), which follows a form of "be" if it is `plain`, and what it is a sign
    of, if of anything."""

    word: str
    sign: str = ""
    plain: bool = True

    def said(self, be: str) -> str:
        return f"{be} {self.word}" if self.plain else self.word

    @property
    def cue(self) -> str:
        """What counts, as the last of the steps."""
        return f"the cue {self.word} shows {self.sign}" if self.sign else f"what counts is {self.word}"


@dataclass(frozen=True)
class Subject:
    """What a question is about: its name, its pronoun, its forms of "be", what it was and what it is."""

    name: str
    pronoun: str
    was: str
    now_is: str
    before: State
    now: State
    question: str
    answer: str


class Questions:
    """Draws puzzles."""

    def __init__(self, writer: Writer, knowledge: Knowledge) -> None:
        self.writer, self.rng, self.knowledge = writer, writer.rng, knowledge

    def pick(self, options: tuple[str, ...]) -> str:
        return self.rng.choice(options)

    def two(self, options: tuple[str, ...]) -> tuple[str, str]:
        first, second = self.rng.sample(options, 2)
        return first, second

    def puzzle(self) -> Puzzle:
        kinds = (self._changed, self._cause, self._comparison, self._moved)
        return self.rng.choices(kinds, (0.88, 0.05, 0.04, 0.03))[0]()

    def _subject(self) -> Subject:
        if self.rng.random() < 0.6:
            return self._person()
        kind = self.pick(("place", "owner", "day", "colour", "self"))
        thing = self.pick(lexicon.THINGS)
        if kind == "self":
            a, b = (State(f"in the {place}") for place in self.two(lexicon.PLACES))
            return Subject("i", "i", "was", "am", a, b, "Where is the writer now?", b.word)
        if kind == "place":
            a, b = (State(f"in the {place}") for place in self.two(lexicon.PLACES))
            return Subject(f"the {thing}", "it", "was", "is", a, b, f"Where is the {thing} now?", b.word)
        if kind == "owner":
            people = self.two(lexicon.NAMES)
            a, b = (State(f"with {person}") for person in people)
            return Subject(f"the {thing}", "it", "was", "is", a, b, f"Who has the {thing} now?", people[1])
        if kind == "day":
            what = self.pick((*SLOTS["match"], *SLOTS["exam"], "meeting", "party", "concert"))
            a, b = (State(f"on {day}") for day in self.two(SLOTS["day"]))
            return Subject(f"the {what}", "it", "was", "is", a, b, f"When is the {what}?", b.word)
        a, b = (State(colour) for colour in self.two(COLOURS))
        return Subject(f"the {thing}", "it", "was", "is", a, b, f"Which colour does the {thing} have now?", b.word)

    def _person(self) -> Subject:
        """Somebody's job, or how somebody or some people are. The answer is one of three words, near to the text's."""
        name, pronoun = self.writer.person(), self.pick(("she", "he"))
        if self.rng.random() < 0.1:
            a, b = (State(f"a {job}") for job in self.two(JOBS))
            return Subject(name, pronoun, "was", "is", a, b, f"What does {name} do now?", b.word)
        know = self.knowledge
        family, other, third = self.rng.sample(FAMILIES, 3)
        several = self.rng.random() < 0.4 and family in LABELS
        if several:
            name = self.pick((f"{name} and {self.pick(lexicon.NAMES)}", "the children", "the neighbors", "the guests"))
        sign, answer = know.sign(family), know.word(family)
        now = State(know.behaviour(family), sign, plain=False) if several else State(know.word(family), sign)
        words = [answer, know.word(other), know.word(third)]
        self.rng.shuffle(words)
        question = f"Which word tells how {name} {'are' if several else 'is'}: {words[0]}, {words[1]} or {words[2]}?"
        before = State(know.word(other))
        if several:
            return Subject(name, "they", "were", "are", before, now, question, answer)
        return Subject(name, pronoun, "was", "is", before, now, question, answer)

    def _changed(self) -> Puzzle:
        """Something was so and is now otherwise, or was only said, thought or dreamed to be so, or is so elsewhere."""
        it = self._subject()
        slots = self.writer.slots()
        turn, time = self.pick(TURNS).format(**slots), self.pick(lexicon.times())
        who, filler, thing = self.writer.person(), self.pick(FILLERS).format(**slots), self.pick(lexicon.THINGS)
        far = f"the {self.pick(lexicon.THINGS)}" if it.pronoun == "it" else self.writer.person()
        a, now, is_a = it.before.word, it.now.said(it.now_is), it.before.said(it.now_is)
        was_a, him = it.before.said(it.was), it.pronoun
        denied, past = f"being {a} is denied", f"being {a} is past"
        mine = him == "i"
        heard = "the first words are somebody else's"
        other = f"being {a} is {'something' if him == 'it' else 'somebody'} else's"
        forms = (
            (f"{it.name} {was_a} until {turn}, now {him} {now}", past),
            (f"{it.name} {now} now, {time} {him} {it.was} still {a}", past),
            (f"{time} {it.name} {was_a} about the {thing}. then {turn}, and {him} {now}", past),
            (f"{time} {who} said: {it.name} {is_a}. that is over, {him} {now}", "the first words are past"),
            (f"{it.name} {it.now_is} not {a} anymore, {him} {now}", denied),
            (f"{it.name} {now} and {him} {it.now_is} not at all {a}", denied),
            (f"{who} asked if {it.name} {was_a}. no, {him} {now}", denied),
            (f"{'i' if mine else who} thought {it.name} would be {a}, but {him} {now}",
             f"being {a} was only expected"),
            (f"{'i' if mine else who} dreamed that {it.name} {was_a}, but {him} {now}",
             f"being {a} was only a dream"),
            (f"{far} is {a} about the {thing}, but {it.name} {now}", other),
            (f"{it.name} {now} while {far} is {a}", other),
            (f"{it.name} {now}, not {a} like {far}", other),
            (f"{who} says: {it.name} {is_a}. but {him} {now}", heard),
            (f"{it.name} {now}. {filler}", "the rest is plain news"),
            (f"{filler}. {it.name} {now}", "the rest is plain news"),
            (f"{it.name} {now}", "the text says it plainly"),
        )  # fmt: skip
        text, dismissed = self.rng.choice(forms)
        return Puzzle(text, it.question, it.answer, f"{dismissed}. {it.now.cue}")

    def _cause(self) -> Puzzle:
        fact, why = (part.format(**self.writer.slots()) for part in self.rng.choice(CAUSES))
        form = self.pick((f"{fact} because {why}", f"{why}, so {fact}", f"{fact}. {why}"))
        filler = self.pick(FILLERS).format(**self.writer.slots())
        text = self.pick((form, form, f"{filler}. {form}"))
        return Puzzle(text, "Why is that so?", why, f"what happened is: {fact}. the cause is: {why}")

    def _comparison(self) -> Puzzle:
        first, second, third = self.rng.sample(lexicon.THINGS, 3)
        more = self.pick(COMPARED)
        steps = [
            f"the {first} is {more} than the {second}",
            f"the {second} is {more} than the {third}",
        ]
        text = " and ".join(self.rng.sample(steps, 2))
        asked = f"Which is {more} than both others?"
        return Puzzle(text, asked, f"the {first}", f"{steps[0]}, and {steps[1]}. so the {first} stands first")

    def _moved(self) -> Puzzle:
        """A day moved by one or two."""
        days, number = SLOTS["day"], self.rng.randrange(7)
        what, by = self.pick((*SLOTS["match"], *SLOTS["exam"])), self.rng.randint(1, 2)
        later = self.rng.random() < 0.5
        end = days[(number + (by if later else -by)) % 7]
        said = f"{'one day' if by == 1 else 'two days'} {'later' if later else 'earlier'}"
        text = self.pick(
            (f"the {what} was on {days[number]}, now it is {said}", f"the {what} is {said} than {days[number]}")
        )
        return Puzzle(text, f"When is the {what}?", f"on {end}", f"from {days[number]}, {said} is {end}")
