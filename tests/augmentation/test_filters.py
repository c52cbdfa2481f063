"""The filters: what each rejects, and what passes all of them."""

from __future__ import annotations

import pytest

from rir_mlx.augmentation.filters import (
    LabelWords,
    ReasoningFilters,
    words_of,
)
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import DELIMITER
from rir_mlx.types import DEFAULT_FILTERS, FILTERS_ACROSS_ROWS

LABELS = ["sadness", "joy", "love", "anger", "fear", "surprise"]
TEXT = "i feel like a million dollars because my friend came home for the weekend"
INSTRUCTION = "Which emotion does the writer of the text express?"

PASS = [
    "A friend has come home, and that makes them happy.",
    "A friend has come home, so joy.",
    "First.\n\nThen they smile \U0001f642.\n",
    "Their friend came home for the weekend, and that is what anyone would be glad of.",
    "So the\nLabel fits their smile.",
    "They write <|eot_id|> and smile.",
    "No sadness is left. They beam with joy.",
    "They are not in anger but in joy about a friend.",
    "They would have loved to stay. A friend is at home.",
    "朋友回家了，所以很开心。",
]
REJECTED = [
    ("control", "They smile \0 at a friend."),
    ("control", "They smile \x1b[31m at a friend."),
    ("empty", ""),
    ("empty", " \n\t "),
    ("empty", "... !"),
    ("empty", "___"),
    ("delimiter", "They smile.\nLabel: joy"),
    ("delimiter", "Label: joy, as they smile"),
    ("delimiter", "They smile.\nLabel:"),
    ("delimiter", "They smile.\nＬabel: joy"),
    ("repeating", "It is very very very very good to see them."),
    ("repeating", "It is because it is because it is because it is."),
    ("repeating", "They smile because they smile because they smile because they smile."),
    ("copying", TEXT),
    ("copying", "I feel like a million dollars because my friend came home"),
    ("copying", "i feel like a million dollars, so joy"),
    ("copying", "a million"),
    ("restating", "joy"),
    ("restating", "The label is joy because the writer of the text expresses joy."),
    ("restating", "The emotion is joyful joy."),
    ("restating", "So the answer is sadness."),
    ("another label", "Their dog has died. So it is sadness after all, we think."),
    ("another label", "One hears anger in every word of theirs."),
    ("another label", "One hears joy at first. Then only Anger stays with them."),
]


@pytest.fixture
def judge(codec: Codec) -> ReasoningFilters:
    return ReasoningFilters(codec, LABELS, INSTRUCTION)


@pytest.mark.parametrize("reasoning", PASS)
def test_a_reasoning_passes(judge: ReasoningFilters, reasoning: str) -> None:
    assert judge(TEXT, "joy", reasoning) is None


@pytest.mark.parametrize(("reason", "reasoning"), REJECTED)
def test_a_reasoning_is_rejected(judge: ReasoningFilters, reason: str, reasoning: str) -> None:
    assert judge(TEXT, "joy", reasoning) == reason


@pytest.mark.parametrize(
    ("labels", "label", "text", "reasoning"),
    [
        (
            ["positive", "negative", "neutral"],
            "neutral",
            "a pen",
            "Naming a pen is neither positive nor negative.",
        ),
        (["ham", "spam"], "ham", "see you at 5", "A friend sets a time, and nothing here looks like spam."),
        (["toxic", "non-toxic"], "non-toxic", "well done", "They praise somebody, so the comment is not toxic."),
        (["entailment", "contradiction"], "entailment", "a / b", "B follows from a; there's no contradiction in them."),
        (["yes", "no"], "yes", "is it so?", "There is no hint of an exception anywhere."),
        (["for", "against"], "against", "taxes up", "It blames taxes for hurting small shops."),
        (["tech", "sports", "other"], "tech", "a phone", "On the other hand the price of the phone is high."),
        (LABELS, "joy", "i love my new job", "The words i love my new job show delight at work."),
        (LABELS, "joy", "x", "It isn't anger that one hears in these words."),
    ],
)
def test_another_label_that_is_denied_quoted_or_a_common_word_is_no_conclusion(
    codec: Codec, labels: list[str], label: str, text: str, reasoning: str
) -> None:
    assert ReasoningFilters(codec, labels, "Which one is it?")(text, label, reasoning) is None


def test_words_of_other_scripts_are_whole() -> None:
    assert words_of("खुशी की बात") == ["खुशी", "की", "बात"]
    assert words_of("cafe\u0301 au lait") == ["café", "au", "lait"]
    assert words_of("评论，好") == ["评", "论", "好"]
    assert words_of("긍정적이다 이것은") == ["긍정적이다", "이것은"]


def test_labels_are_found_where_no_space_stands_around_them() -> None:
    words = LabelWords(["积极", "消极"])
    assert [label for label, _, _ in words.named("这条评论是积极的。")] == ["积极"]
    assert words.masked("这条评论是积极的。") == "这条评论是___的。"
    assert [label for label, _, _ in LabelWords(["긍정", "부정"]).named("긍정적이다")] == ["긍정"]


def test_how_it_ended_and_control_tokens_count(judge: ReasoningFilters) -> None:
    assert judge(TEXT, "joy", PASS[0], "length") == "cut off"
    assert judge(TEXT, "joy", PASS[0], "stop", True) == "control"


@pytest.mark.parametrize("name", sorted({*DEFAULT_FILTERS}.difference(FILTERS_ACROSS_ROWS)))
def test_a_filter_that_is_left_out_rejects_nothing(codec: Codec, name: str) -> None:
    judge = ReasoningFilters(codec, LABELS, INSTRUCTION, [other for other in DEFAULT_FILTERS if other != name])
    mine = [reasoning for reason, reasoning in REJECTED if reason == name]
    assert len(mine) >= 3
    assert name not in {judge(TEXT, "joy", reasoning) for reasoning in mine}


def test_a_reasoning_is_grounded_by_a_word_of_its_text_that_says_something(judge: ReasoningFilters) -> None:
    text = "i passed my exam today"
    assert judge.is_grounded(text, "The word exam shows it.")
    assert not judge.is_grounded(text, "The word funeral shows it.")
    assert not judge.is_grounded(text, "They say that it was joy, and i hear it in my heart.")
    assert judge(text, "joy", "The word funeral shows it.") is None  # until all rows have a reasoning


def test_without_filters_what_cannot_be_learned_is_still_rejected(codec: Codec) -> None:
    judge = ReasoningFilters(codec, LABELS, INSTRUCTION, [])
    always = {"control", "empty", "delimiter"}
    for reason, reasoning in REJECTED:
        assert judge(TEXT, "joy", reasoning) == (reason if reason in always else None)


def test_the_same_filters_have_the_same_digest(codec: Codec) -> None:
    assert (
        ReasoningFilters(codec, LABELS, "", DEFAULT_FILTERS).digest
        == ReasoningFilters(codec, LABELS, "", DEFAULT_FILTERS[::-1]).digest
    )
    assert (
        ReasoningFilters(codec, LABELS, "", DEFAULT_FILTERS).digest
        != ReasoningFilters(codec, LABELS, "", DEFAULT_FILTERS[1:]).digest
    )


def test_what_passes_is_learned_up_to_one_delimiter(codec: Codec, judge: ReasoningFilters) -> None:
    """A classifier stops at the first delimiter: a second one in what it learned would put its label elsewhere."""
    from rir_mlx.prompting.arms import reasoning_tokens

    delimiter = codec.constant(DELIMITER)
    for text in PASS:
        tokens = reasoning_tokens(codec, text)
        places = [at for at in range(len(tokens)) if tokens[at : at + len(delimiter)] == delimiter]
        assert places == [len(tokens) - len(delimiter)]


# where labels are named


def test_labels_of_several_words_are_found_however_they_are_written() -> None:
    words = LabelWords(["card_arrival", "card", "top up failed"])
    text = "The Card Arrival is late; the card-arrival, the card, and TOP_UP failed."
    assert [label for label, _, _ in words.named(text)] == ["card_arrival", "card_arrival", "card", "top up failed"]
    assert words.masked(text) == "The ___ is late; the ___, the ___, and ___."


def test_words_made_of_a_label_are_known_as_such() -> None:
    words = LabelWords(LABELS)
    named = words.named("Joyful, loved, sad, surprised; joy.")
    assert named == [
        ("joy", 0, False),
        ("love", 8, False),
        ("sadness", 15, False),
        ("surprise", 20, False),
        ("joy", 31, True),
    ]


def test_a_label_inside_another_word_is_not_named() -> None:
    assert LabelWords(["art", "c++"]).named("the party starts with a chart of c++11") == []
    assert LabelWords(["art", "c++"]).named("art, c++!") == [("art", 0, True), ("c++", 5, True)]


def test_a_label_is_not_taken_for_another_ones_form() -> None:
    words = LabelWords(["need", "needed"])
    assert [label for label, _, _ in words.named("need needed needs")] == ["need", "needed", "need"]


def test_labels_that_are_numbers_are_never_named(codec: Codec) -> None:
    """Two days are not the class 2."""
    words = LabelWords(["0", "1", "2"])
    assert words.named("2 days and 1 night") == []
    assert words.masked("2 days") == "2 days"
    assert (
        ReasoningFilters(codec, ["0", "1", "2"], "Which?")("a text", "0", "They had waited 2 days in the rain.") is None
    )


def test_labels_in_other_scripts_are_found() -> None:
    words = LabelWords(["радость", "ΧΑΡΆ", "İyi"])
    assert [label for label, _, _ in words.named("Это РАДОСТЬ, χαρά.")] == ["радость", "ΧΑΡΆ"]
    assert "___" in words.masked("İçi İyi")


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        ("The card was charged twice, so it is billing, and the writer wants a refund.", None),
        ("They want their money back: a refund, no login of theirs is mentioned.", None),
        ("Somebody cannot get in, which is about login alone.", "another label"),
    ],
)
def test_where_a_text_has_several_labels_a_reasoning_may_name_each(
    codec: Codec, reasoning: str, expected: str | None
) -> None:
    filters = ReasoningFilters(codec, ["billing", "login", "refund"], "Which fit?", several=True)
    assert filters("twice on my account", "billing, refund", reasoning) == expected
    assert list(filters.labels.own("billing, refund")) == ["billing", "refund"]
