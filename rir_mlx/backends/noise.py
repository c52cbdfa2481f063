"""Random draws of tokens that are the same in any batch: Gumbel-max sampling in two stages, with separate noise for
each row.

argmax(log p + Gumbel noise) draws from p exactly (Gumbel 1954; arXiv:1611.01144). The vocabulary is cut into about √V
blocks of √V tokens: the first stage draws a block by its total probability, the second a token inside it. So a draw
takes some 2 √V numbers, not V. Rounding changes a draw only where the two best sums nearly tie. An inverse-CDF draw
adds up the whole vocabulary instead, and its rounding flips far more of them.

Knows no framework: NumPy makes the noise, so both backends draw with the same numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.base import Float32Array

_STEPS = 16
"""Steps whose noise is made together: NumPy's calls cost more than its arithmetic."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def gumbel_noise(seed: int, first_step: int, shape: tuple[int, int]) -> Float32Array:
    """[steps, count] Gumbel noise. Only the seed, the step and the index determine each number: SplitMix64 (Steele, Lea
    and Flood 2014) hashes the three, so the noise does not depend on what was drawn before or how much is made."""
    steps, count = shape
    with np.errstate(over="ignore"):
        row = _mixed(np.array([seed], dtype=np.uint64) ^ _GOLDEN)
        each = _mixed(row + np.arange(first_step + 1, first_step + 1 + steps, dtype=np.uint64) * _GOLDEN)
        bits = _mixed(each[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53  # never 0 nor 1
    return (-np.log(-np.log(uniform))).astype(np.float32)


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class RowNoise:
    """The noise of one row, step after step."""

    def __init__(self, seed: int, vocabulary: int) -> None:
        self.seed = seed
        self.blocks, self.width = blocks_of(vocabulary)
        self._first, self._made = 0, np.zeros((0, 0), dtype=np.float32)

    def at(self, step: int) -> Float32Array:
        """[blocks + width]: the noise of the blocks, then that of the places inside a block."""
        if not 0 <= step - self._first < len(self._made):
            self._first, shape = step, (_STEPS, self.blocks + self.width)
            self._made = gumbel_noise(self.seed, step, shape)
        noise: Float32Array = self._made[step - self._first]
        return noise


def blocks_of(vocabulary: int) -> tuple[int, int]:
    """The number of blocks of the vocabulary, and the tokens in each; the last may have fewer."""
    width = math.isqrt(max(0, vocabulary - 1)) + 1
    return -(-vocabulary // width), width
