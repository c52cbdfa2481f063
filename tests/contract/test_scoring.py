"""Label scores against the same numbers computed the slow way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sequences import HEAD, draw, naive_score

from rir_mlx.backends.base import Backend, Tokens

LENGTHS = (1, 30, 4, 80, 2)
OPTIONS: tuple[Tokens, ...] = ((20,), (20, 21), (20, 21, 22, 23), (30, 31), (40,), (20, 21))
"""Of different lengths, prefixes of each other, and one twice."""


def some_prompts() -> list[Tokens]:
    rng = np.random.default_rng(1)
    return [draw(rng, length) for length in LENGTHS]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("prefix_length", [0, 1, HEAD])
def test_scores_are_sums_of_log_probabilities(
    backend: Backend, tiny: Path, prefix_length: int, batch_size: int
) -> None:
    model, prompts = backend.load(tiny, dtype="float32"), some_prompts()
    prefix = draw(np.random.default_rng(2), prefix_length)
    scores = model.score(prompts, OPTIONS, prefix=prefix, batch_size=batch_size)
    assert scores.dtype == np.float64
    expected = [[naive_score(model, prefix + prompt, option) for option in OPTIONS] for prompt in prompts]
    # A sum of up to four log-probabilities near -6, each from a float32 softmax over 400 words.
    np.testing.assert_allclose(scores, expected, atol=3e-5)


@pytest.mark.parametrize("options", [((20,), (21,), (22,)), ((20, 21, 22),)])
def test_options_of_one_token_and_a_single_option(backend: Backend, tiny: Path, options: tuple[Tokens, ...]) -> None:
    model, prompts = backend.load(tiny, dtype="float32"), some_prompts()
    expected = [[naive_score(model, prompt, option) for option in options] for prompt in prompts]
    np.testing.assert_allclose(model.score(prompts, options), expected, atol=3e-5)


def test_probabilities_of_all_one_token_options_sum_to_one(backend: Backend, tiny: Path) -> None:
    model, prompts = backend.load(tiny, dtype="float32"), some_prompts()
    words = model.logits((9,)).shape[-1]
    scores = model.score(prompts, [(token,) for token in range(words)], prefix=(9, 10))
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0, atol=1e-5)


def test_an_option_that_goes_on_is_less_likely_than_its_start(backend: Backend, tiny: Path) -> None:
    scores = backend.load(tiny, dtype="float32").score(some_prompts(), OPTIONS)
    assert (scores[:, 0] > scores[:, 1]).all()
    assert (scores[:, 1] > scores[:, 2]).all()
    np.testing.assert_allclose(scores[:, 1], scores[:, 5], atol=1e-6)


def test_scoring_twice_gives_the_same_numbers(backend: Backend, tiny: Path) -> None:
    model, prompts = backend.load(tiny, dtype="float32"), some_prompts()
    prefix = draw(np.random.default_rng(2), HEAD)
    first = model.score(prompts, OPTIONS, prefix=prefix)
    np.testing.assert_array_equal(model.score(prompts, OPTIONS, prefix=prefix), first)
