from __future__ import annotations

import sys

import pytest

from rir_mlx.data.same_text import normalised


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("I feel  great ", "i feel great"),
        ("a\tb\r\nc", "A B\u00a0C"),
        ("Ｆｕｌｌ　width", "full width"),
        ("caf\u00e9", "CAFE\u0301"),
        ("Straße", "STRASSE"),
        ("ﬁne", "FINE"),
        ("\u1fc3", "\u0397\u0399"),  # eta with iota below: its capital form is two letters
    ],
)
def test_what_people_read_alike_is_one_text(first: str, second: str) -> None:
    assert normalised(first) == normalised(second)


@pytest.mark.parametrize(("first", "second"), [("I feel great", "I feel great!"), ("a b", "ab"), ("résumé", "resume")])
def test_punctuation_words_and_accents_are_a_difference(first: str, second: str) -> None:
    assert normalised(first) != normalised(second)


@pytest.mark.slow
def test_normalising_twice_is_the_same_as_once_for_every_character() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    assert [
        character
        for character in characters
        if normalised(normalised(f"x{character}y")) != normalised(f"x{character}y")
    ] == []
