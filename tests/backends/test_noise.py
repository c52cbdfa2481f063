"""The noise that decides drawn tokens, and draws made with it."""

from __future__ import annotations

import numpy as np
import pytest

from rir_mlx.backends.noise import RowNoise, as_int64, blocks_of, gumbel_noise, noise_bits


def drawn(logits: np.ndarray, seeds: range) -> np.ndarray:
    """A token for each seed by the two stages, in float64. `logits` is [vocabulary] or [seeds, vocabulary]."""
    vocabulary = logits.shape[-1]
    blocks, width = blocks_of(vocabulary)
    noise = np.concatenate([gumbel_noise(seed, 0, (1, blocks + width)) for seed in seeds])
    cut = np.full((len(seeds), blocks * width), -np.inf)
    cut[:, :vocabulary] = logits
    cut = cut.reshape(len(seeds), blocks, width)
    block = (np.log(np.exp(cut).sum(axis=2)) + noise[:, :blocks]).argmax(1)
    return block * width + (cut[np.arange(len(seeds)), block] + noise[:, blocks:]).argmax(1)


@pytest.mark.parametrize("vocabulary", [1, 2, 7, 16, 4096, 128_256, 262_144])
def test_the_blocks_hold_the_vocabulary_in_about_two_square_roots_of_it(vocabulary: int) -> None:
    blocks, width = blocks_of(vocabulary)
    assert (blocks - 1) * width < vocabulary <= blocks * width
    assert blocks + width <= 2 * np.sqrt(vocabulary) + 2


def test_noise_is_gumbel_distributed() -> None:
    noise = gumbel_noise(3, 0, (200, 500)).astype(np.float64)
    # Mean γ, variance π²/6; five standard errors of 100,000 draws.
    assert noise.mean() == pytest.approx(0.5772, abs=5 * 1.2825 / np.sqrt(noise.size))
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.05)
    assert np.isfinite(noise).all()


def test_seed_step_and_index_alone_decide_the_noise() -> None:
    whole = gumbel_noise(5, 0, (40, 30))
    np.testing.assert_array_equal(gumbel_noise(5, 7, (3, 20)), whole[7:10, :20])
    row = RowNoise(5, 200)
    np.testing.assert_array_equal(
        np.stack([row.at(step) for step in range(40)])[:, :30], whole[:, : row.blocks + row.width]
    )
    flat = np.concatenate([whole.ravel(), gumbel_noise(6, 0, (40, 30)).ravel()])
    assert len(np.unique(flat)) > 0.999 * len(flat)  # as float32, a few may coincide


def test_bits_are_those_of_splitmix64() -> None:
    """By Python's own integers; the first output for a state of 0 is the published one."""
    kept, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mixed(bits: int) -> int:
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & kept
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & kept
        return bits ^ bits >> 31

    assert mixed(golden) == 0xE220A8397B1DCDAF
    seeds, steps = [0, 7, 2**63 + 5, kept], [0, 3, 1, 200]
    expected = [
        [
            mixed(mixed(mixed(seed ^ golden) + (step + 1) * golden & kept) + index * golden & kept) >> 11
            for index in (1, 2)
        ]
        for seed, step in zip(seeds, steps, strict=True)
    ]
    assert noise_bits(as_int64(seeds), np.array(steps), np.arange(2)).tolist() == expected


@pytest.mark.slow
def test_pytorch_draws_with_the_same_noise() -> None:
    torch = pytest.importorskip("torch")
    from rir_mlx.backends.base import Request
    from rir_mlx.backends.torch.decoding.drawing import Row, noise_of

    seeds, steps = [0, 7, 2**63 + 5, 2**64 - 1], [0, 3, 1, 200]
    rows = [Row(Request(0, (1,), seed=seed), limit=300, drawn=step) for seed, step in zip(seeds, steps, strict=True)]
    expected = [gumbel_noise(seed, step, (1, 40))[0] for seed, step in zip(seeds, steps, strict=True)]
    np.testing.assert_allclose(noise_of(rows, 40, torch.device("cpu")).numpy(), expected, rtol=2e-7)


def test_the_two_stages_draw_the_distribution() -> None:
    """Chi-square over a vocabulary that does not fill its last block."""
    logits = np.random.default_rng(0).normal(0, 1, 11)
    counts = np.bincount(drawn(logits, range(6000)), minlength=11)
    expected = 6000 * np.exp(logits) / np.exp(logits).sum()
    # The 99.99 % quantile of chi-square with 10 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 35.6


def test_rounding_flips_few_draws() -> None:
    """An inverse-CDF draw adds up the vocabulary, and rounding of 1e-5 flipped some 100 of 100,000 draws."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 1000))
    rounded = logits + rng.normal(0, 1e-5, logits.shape)
    assert (drawn(logits, range(4000)) != drawn(rounded, range(4000))).sum() <= 2
