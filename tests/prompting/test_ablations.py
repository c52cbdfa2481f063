"""Reasonings that are put out of place keep all else as it was."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from rir_mlx.prompting.ablations import (
    corrupt,
    shuffle_among,
    shuffle_words,
    swap_among,
    vocabulary,
)

SEEDS = range(30)
SENTENCE = "it rained all day and so the walk was off"


@pytest.mark.parametrize("count", [2, 3, 4, 7, 100])
def test_no_row_keeps_its_own_reasoning(count: int) -> None:
    reasonings = [f"reasoning {number}" for number in range(count)]
    for seed in SEEDS:
        shuffled = shuffle_among(reasonings, seed)
        assert Counter(shuffled) == Counter(reasonings)
        assert all(a != b for a, b in zip(reasonings, shuffled, strict=True))


def test_rows_with_equal_reasonings_get_others_as_far_as_there_are_any() -> None:
    rng = random.Random(0)
    for seed in range(200):
        reasonings = [rng.choice("aaaabbc") for _ in range(rng.randrange(1, 12))]
        shuffled = shuffle_among(reasonings, seed)
        assert Counter(shuffled) == Counter(reasonings)
        most = max(Counter(reasonings).values())
        kept = sum(a == b for a, b in zip(reasonings, shuffled, strict=True))
        assert kept == max(0, 2 * most - len(reasonings))


def test_few_rows_are_shuffled_as_far_as_possible() -> None:
    assert shuffle_among([], 0) == []
    assert shuffle_among(["a"], 0) == ["a"]
    assert shuffle_among(["a", "b"], 0) == ["b", "a"]
    assert shuffle_among(["a", "a"], 0) == ["a", "a"]


def test_every_other_row_is_as_likely_to_give_its_reasoning() -> None:
    reasonings = [str(number) for number in range(5)]
    given = Counter(shuffle_among(reasonings, seed)[0] for seed in range(2000))
    assert set(given) == {"1", "2", "3", "4"}
    # 500 expected of each; five standard deviations are about 97
    assert all(400 < count < 600 for count in given.values())


def test_the_seed_alone_decides() -> None:
    rows, words = [str(number) for number in range(50)], ["sun", "rain"]
    labels = [str(number % 3) for number in range(50)]
    assert shuffle_among(rows, 1) == shuffle_among(rows, 1) != shuffle_among(rows, 2)
    assert swap_among(rows, labels, 1) == swap_among(rows, labels, 1) != swap_among(rows, labels, 2)
    assert shuffle_words(SENTENCE, 1) == shuffle_words(SENTENCE, 1) != shuffle_words(SENTENCE, 2)
    assert corrupt(SENTENCE, 1, words) == corrupt(SENTENCE, 1, words) != corrupt(SENTENCE, 2, words)


def test_shuffled_words_are_the_same_words_in_another_order() -> None:
    for seed in SEEDS:
        for text in (SENTENCE, "yes no", "no no\nno yes"):
            shuffled = shuffle_words(text, seed)
            assert sorted(shuffled.split()) == sorted(text.split())
            assert shuffled.split() != text.split()


@pytest.mark.parametrize("text", ["", "alone", "same same same"])
def test_words_without_another_order_stay(text: str) -> None:
    assert shuffle_words(text, 0) == text


def test_rows_with_one_seed_are_shuffled_each_in_its_own_way() -> None:
    texts = [" ".join([str(row), *"bcdefgh"]) for row in range(10)]
    orders = {tuple(text.split().index(word) for word in shuffle_words(text, 0).split()) for text in texts}
    assert len(orders) > 5


def test_a_swapped_reasoning_is_that_of_another_label() -> None:
    labels = ["joy"] * 7 + ["fear"] * 2 + ["anger"]
    reasonings = [f"{label} {number}" for number, label in enumerate(labels)]
    random.Random(0).shuffle(reasonings)
    labels = [reasoning.split()[0] for reasoning in reasonings]
    drawn = Counter()
    for seed in range(300):
        swapped = swap_among(reasonings, labels, seed)
        assert all(new.split()[0] != label for new, label in zip(swapped, labels, strict=True))
        drawn.update(new for new, label in zip(swapped, labels, strict=True) if label == "joy")
    # 7 rows of joy in 300 draws have 3 others to draw from: 700 of each, five standard deviations are about 108
    assert len(drawn) == 3
    assert all(590 < count < 810 for count in drawn.values())


def test_where_all_rows_have_one_label_each_keeps_its_reasoning() -> None:
    assert swap_among(["a", "b"], ["joy", "joy"], 0) == ["a", "b"]
    assert swap_among([], [], 0) == []


def test_half_of_the_words_are_replaced_by_words_of_the_vocabulary() -> None:
    words = vocabulary(["sun sun rain", "so the"])
    assert words == ["sun", "sun", "rain", "so", "the"]
    for seed in SEEDS:
        before, after = SENTENCE.split(), corrupt(SENTENCE, seed, words).split()
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        assert len(changed) == 5  # of 10
        assert all(b in words for _, b in changed)


def test_a_reasoning_of_one_word_loses_it_and_one_without_words_loses_none() -> None:
    assert corrupt("rain", 0, ["rain", "sun"]) == "sun"
    assert corrupt("rain", 0, ["rain"]) == "rain"
    assert corrupt("rain", 0, []) == "rain"
    assert corrupt("", 0, ["sun"]) == ""
