"""The filters that a reasoning must pass before a classifier learns from it.

The rules count words and need no model. A word is a run of letters, digits and marks, or a single character in a script
without spaces; case is ignored. Lists of English words make two rules sharper and do nothing in other languages.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby
from typing import Literal

import regex

from rir_mlx.augmentation.model_output import (
    declines,
    holds_control_character,
    holds_markup,
    holds_thoughts,
    says_nothing,
)
from rir_mlx.data.labels.combinations import parts_of
from rir_mlx.prompting.arms import reasoning_tokens
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import DELIMITER
from rir_mlx.storage.digests import digest_of
from rir_mlx.types import DEFAULT_FILTERS, FILTERS_ACROSS_ROWS, Filter

RejectionReason = Literal["thinking", "cut off", "control", "empty", "declined", "markup", "delimiter", Filter]
"""Why a reasoning is rejected, in the order in which the rules are tried. The first seven always apply: such a text
must never be trained on. The others are `Filter`s.

thinking       it contains a model's private thoughts
cut off        it reached the limit before it ended
control        it contains a control token or character
empty          it contains no word, or stands for none ("N/A")
declined       the model declines to answer ("I'm sorry, but I can't help with that"), in words that the text lacks
markup         it is JSON, begins with an element in tags, or contains a fenced block
delimiter      it contains the text that separates a reasoning from its label
repeating      a word stands four times in a row, or over a quarter of its runs of four words are repeats
               (seq-rep-4 of arXiv:1908.04319)
copying        outside runs of three or more words of the text, fewer than three words, or under a tenth, are its own
restating      nothing is left without the label, the instruction's words and empty words
another label  its last sentence that names a label names only other labels; names that are negated, that occur in the
               text, or that are empty words (no, for, other) do not count
stock          it is ungrounded, and five rows or more share it
ungrounded     no word of it occurs in the text, apart from words of the labels and the instruction and empty words
uninformative  R-Gen would write it as well for other texts of its label

The last three look across rows, once all have a reasoning (`across/`).
"""
_RULES = 6
"""Version of the rules. Results judged by another version are judged again."""
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(
    rf"[{_UNSPACED}]\p{{M}}*|[\p{{L}}\p{{N}}--[{_UNSPACED}]][\p{{L}}\p{{N}}\p{{M}}--[{_UNSPACED}]]*", regex.V1
)
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_JOINED = regex.compile(rf"[{_UNSPACED}\p{{Hangul}}]")
"""Scripts without spaces, in which other words may touch a label."""
_SENTENCE = regex.compile(r"(?<=[.!?。！？])\s+|\n+|(?<=[。！？])")
_NOT = regex.compile(r"\b(?:no|not|nor|neither|never|without|nothing|none|nobody|hardly|instead|rather)\b|n['’]t\b")
_RUN = 3
MASK = "___"
_ENDINGS = ("s", "es", "d", "ed", "ing", "ful", "fully", "ly")
_SAY_NOTHING = """
    a about all also am an and any are as at be because been being both but by can could did do does doing done each
    either else etc even ever every for from had has have having he hence her here hers him himself his how i if in into
    is it its itself just me may might mine more most much must my myself neither no nor not now of off on once one only
    or other our ours out over own quite rather really same shall she should so some such than that the their theirs
    them then there therefore these they this those thus to too under up upon us very was we were what when where which
    while who whom whose why will with would yes yet you your yours
    label labels answer answers text texts tweet sentence message writer author speaker reason reasons reasoning correct
    right choice choices option options question class category clearly simply expresses express expressed expressing
    feels feel feeling shows show means mean says said indicates indicate s t
"""
"""Empty words: English words that say nothing by themselves, and the words of a mere restatement."""


def words_of(text: str) -> list[str]:
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return list(_WORD.findall(_normal(text)))


def _normal(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).lower()


_HOLLOW = frozenset(words_of(_SAY_NOTHING))


class LabelWords:
    """Where a text names a label: the label itself, its words joined by spaces, hyphens or underscores, and words made
    of it by a common English ending (joy, joyful; sadness, sad). A label that is a bare number is never named: numbers
    stand in any text. `several`: a row's label may be a combination of labels."""

    def __init__(self, labels: Iterable[str], *, several: bool = False) -> None:
        self.several = several
        self.by_form: dict[str, str] = {}
        for label in labels:
            plain = _plain(label)
            if not any(letter.isalpha() for letter in plain):
                continue
            stems = [plain, plain.removesuffix("ness")] if len(plain) > 6 else [plain]
            for form in [*stems, *(stem + ending for stem in stems for ending in _ENDINGS)]:
                self.by_form.setdefault(form, label)
        for label in self.by_form.values():  # a label is never a form of another label
            self.by_form[_plain(label)] = label
        forms = sorted(self.by_form, key=len, reverse=True)
        self.pattern = regex.compile("|".join(map(_bounded, forms)) or r"(?!)")
        self.words = frozenset(word for form in self.by_form for word in words_of(form))

    def own(self, label: str) -> Sequence[str]:
        """The labels of a row."""
        return parts_of(label) if self.several else (label,)

    def named(self, text: str) -> list[tuple[str, int, bool]]:
        """Each label that the text names, in order: the label, the index of its first character, and whether it is the
        label itself rather than a form of it."""
        found = ((_plain(match.group()), match.start()) for match in self.pattern.finditer(_normal(text)))
        return [(self.by_form[form], place, form == _plain(self.by_form[form])) for form, place in found]

    def masked(self, text: str) -> str:
        """The text with the words of every label blanked out."""
        text = text if text.isascii() else unicodedata.normalize("NFC", text)
        lowered = text.lower()
        if len(lowered) != len(text):  # a few capital letters become two in lower case
            text = lowered
        parts, end = [], 0
        for found in self.pattern.finditer(lowered):
            parts += [text[end : found.start()], MASK]
            end = found.end()
        return "".join([*parts, text[end:]])


def _bounded(form: str) -> str:
    """A pattern that matches a label's form as whole words, where its script has spaces."""
    before = "" if _JOINED.match(form[0]) else r"(?<!\w)"
    after = "" if _JOINED.match(form[-1]) else r"(?!\w)"
    body: str = regex.escape(form, literal_spaces=True)
    return before + body.replace(" ", r"[\s_-]+") + after


def _plain(label: str) -> str:
    return str(regex.sub(r"[\s_-]+", " ", _normal(label)))


class ReasoningFilters:
    """Decides whether to reject a reasoning, and why, from its row alone. `names` are the optional filters to apply;
    `several`: a row's label may be a combination of labels."""

    def __init__(
        self,
        codec: Codec,
        labels: Sequence[str],
        instruction: str,
        names: Sequence[Filter] = DEFAULT_FILTERS,
        *,
        several: bool = False,
    ) -> None:
        self.codec, self.names = codec, frozenset(names)
        self.labels = LabelWords(labels, several=several)
        self.asked = frozenset(words_of(instruction))
        self.digest = digest_of([_RULES, sorted(self.names.difference(FILTERS_ACROSS_ROWS))])[:8]

    def __call__(
        self, text: str, label: str, reasoning: str, finish_reason: str = "stop", control: bool = False
    ) -> RejectionReason | None:
        """The reason to reject the `reasoning` of a labelled text, or None."""
        if holds_thoughts(reasoning):
            return "thinking"
        if finish_reason == "length":
            return "cut off"
        if control or holds_control_character(reasoning):
            return "control"
        words = words_of(reasoning)
        if not words or says_nothing(reasoning):
            return "empty"
        if declines(reasoning) and not declines(text):
            return "declined"
        if holds_markup(reasoning):
            return "markup"
        if self._holds_delimiter(reasoning):
            return "delimiter"
        if "repeating" in self.names and _repeats(words):
            return "repeating"
        if "copying" in self.names and _copies(words, words_of(text)):
            return "copying"
        if "restating" in self.names and self._hollow.issuperset(words):
            return "restating"
        if "another label" in self.names and self._concludes_another(text, label, reasoning, words):
            return "another label"
        return None

    def is_grounded(self, text: str, reasoning: str) -> bool:
        """Whether a word of the reasoning occurs in the text, apart from words that say nothing about it."""
        return not self._hollow.issuperset(set(words_of(reasoning)) & set(words_of(text)))

    def _holds_delimiter(self, reasoning: str) -> bool:
        """Whether a reasoning contains the delimiter, or look-alike characters that the tokenizer turns into it."""
        plain = unicodedata.normalize("NFKC", reasoning)
        if DELIMITER.strip() in plain:
            return True
        if DELIMITER.strip(" \n:").lower() not in plain.lower():
            return False
        return self.codec.decode(reasoning_tokens(self.codec, reasoning)).count(DELIMITER) != 1

    @cached_property
    def _hollow(self) -> frozenset[str]:
        return frozenset({*_HOLLOW, *self.asked, *self.labels.words})

    def _concludes_another(self, text: str, label: str, reasoning: str, words: Sequence[str]) -> bool:
        if self.labels.words.isdisjoint(words):
            return False
        quoted, own = {name for name, _, _ in self.labels.named(text)}, self.labels.own(label)
        named = [
            (name, place)
            for name, place, itself in self.labels.named(reasoning)
            if name in own or (itself and name not in quoted and not self._says_nothing(name))
        ]
        if not named:
            return False
        reasoning = _normal(reasoning)
        ends = [found.end() for found in _SENTENCE.finditer(reasoning)]
        sentence = bisect_right(ends, named[-1][1])
        start = ends[sentence - 1] if sentence else 0
        last = [(name, place) for name, place in named if place >= start]
        return all(name not in own and not _NOT.search(reasoning, start, place) for name, place in last)

    def _says_nothing(self, label: str) -> bool:
        return _HOLLOW.issuperset(words_of(label))


def _repeats(words: Sequence[str]) -> bool:
    if len(set(words)) == len(words):
        return False
    if any(sum(1 for _ in run) >= 4 for _, run in groupby(words)):
        return True
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(runs) >= 4 and 1 - len(set(runs)) / len(runs) > 0.25


def _copies(words: Sequence[str], text: Sequence[str]) -> bool:
    run = min(_RUN, len(words))
    known = {tuple(text[start : start + run]) for start in range(len(text) - run + 1)}
    covered = 0
    until = 0
    for start in range(len(words) - run + 1):
        if tuple(words[start : start + run]) in known:
            covered += start + run - max(start, until)
            until = start + run
    own = len(words) - covered
    return covered > 0 and (own < 3 or own < len(words) / 10)
