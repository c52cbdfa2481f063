"""How much of the label the reasonings give away."""

from __future__ import annotations

import random

import pytest

from rir_mlx.augmentation.filters import LabelWords
from rir_mlx.augmentation.leakage import LabelledReasoning, ReservoirSample, leakage

LABELS = ["joy", "anger", "fear"]
WORDS = LabelWords(LABELS)
FILLER = ["the", "a", "of", "to", "and", "when", "they", "there", "it", "was", "not", "about", "day", "home", "rain"]


def sample_of(say: str, count: int = 300) -> ReservoirSample:
    rng = random.Random(0)
    sample = ReservoirSample()
    for number in range(count):
        label = LABELS[number % 3]
        words = " ".join(rng.choices(FILLER, k=12))
        sample.add(
            LabelledReasoning(label, say.format(label=label, words=words, cue={"joy": "smile"}.get(label, label + "x")))
        )
    return sample


def test_a_label_that_is_named_is_read_off_and_not_when_it_is_blanked_out() -> None:
    values = leakage(sample_of("{words}, so {label}"), WORDS)
    assert values["label_from_reasoning"]["value"] > 0.99
    assert values["without_label_words"]["low"] < 1 / 3 < values["without_label_words"]["high"]
    assert values["names_its_label"] == 1.0
    assert 0.8 < values["first_named_at"][1] < 1
    assert values["majority"] == 1 / 3


def test_a_cue_gives_the_label_away_without_its_words() -> None:
    values = leakage(sample_of("{cue} {words}"), WORDS)
    assert values["without_label_words"]["value"] > 0.99
    assert values["names_its_label"] == 0.0
    assert values["first_named_at"] is None


@pytest.mark.slow
def test_a_signal_that_is_spread_over_many_words_is_read_off() -> None:
    """A solver that stops by the size of its first gradients finds little more than the majority here."""
    rng = random.Random(0)
    sample = ReservoirSample()
    for number in range(900):
        cues = [f"{LABELS[number % 3][:2]}cue{rng.randrange(60)}" for _ in range(2)]
        words = [*rng.choices([f"word{place}" for place in range(300)], k=14), *cues]
        rng.shuffle(words)
        sample.add(LabelledReasoning(LABELS[number % 3], " ".join(words)))
    assert leakage(sample, WORDS)["label_from_reasoning"]["value"] > 0.9


def test_nothing_is_read_off_what_says_nothing() -> None:
    values = leakage(sample_of("{words}"), WORDS)
    assert values["label_from_reasoning"]["low"] < 1 / 3 < values["label_from_reasoning"]["high"]


def test_few_rows_are_no_error() -> None:
    for rows in (
        [],
        [LabelledReasoning("joy", "x y")],
        [LabelledReasoning("joy", "x y"), LabelledReasoning("anger", "z")],
    ):
        sample = ReservoirSample()
        for row in rows:
            sample.add(row)
        values = leakage(sample, WORDS)
        assert values["label_from_reasoning"] is None
        assert values["sampled"] == len(rows)


def test_a_label_with_two_rows_is_cross_validated_in_two_parts() -> None:
    sample = sample_of("{words}, so {label}", 30)
    for number in range(2):
        sample.add(LabelledReasoning("surprise", f"rare thing {number}"))
    sample.add(LabelledReasoning("single", "left out"))
    assert leakage(sample, WORDS)["label_from_reasoning"]["value"] > 0.8


def test_a_sample_is_even_and_of_its_size() -> None:
    counts = [0] * 20
    for seed in range(2000):
        sample = ReservoirSample(size=5, seed=seed)
        for number in range(20):
            sample.add(LabelledReasoning("joy", str(number)))
        assert len(sample.items) == 5
        assert sample.seen == 20
        for item in sample.items:
            counts[int(item.reasoning)] += 1
    # 500 expected of each; five standard deviations are about 97
    assert all(400 < count < 600 for count in counts)
