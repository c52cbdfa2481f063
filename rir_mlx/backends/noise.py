"""Random draws of tokens that are the same in any batch: Gumbel-max sampling in two stages, with separate noise for
each row.

argmax(log p + Gumbel noise) draws from p exactly (Gumbel 1954; arXiv:1611.01144). The vocabulary is cut into about √V
blocks of √V tokens: the first stage draws a block by its total probability, the second a token inside it. So a draw
takes some 2 √V numbers, not V. Rounding changes a draw only where the two best sums nearly tie. An inverse-CDF draw
adds up the whole vocabulary instead, and its rounding flips far more of them.

Knows no framework: `noise_bits` needs an array's operators alone, so each backend makes the same noise where its logits
are. NumPy makes it for MLX, since Apple's GPUs have no float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.base import Float32Array

_STEPS = 16
"""Steps whose noise is made together: NumPy's calls cost more than its arithmetic."""


def _signed(bits: int) -> int:
    return bits - (bits >> 63 << 64)


_GOLDEN, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
BITS = 53
"""Random bits of a number: as many as a float64 holds."""


def noise_bits(seeds: Any, steps: Any, indices: Any) -> Any:
    """[rows, count] integers below 2^53, from int64 arrays of NumPy or a framework, which wrap around: `seeds` and
    `steps` [rows] and `indices` [count]. SplitMix64 (Steele, Lea and Flood 2014) hashes the three, so a number does not
    depend on what was drawn before or how much is made."""
    each = _mixed(_mixed(seeds ^ _GOLDEN) + (steps + 1) * _GOLDEN)
    return _shifted(_mixed(each[:, None] + (indices + 1) * _GOLDEN), 64 - BITS)


def _mixed(bits: Any) -> Any:
    """SplitMix64's finaliser."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Any, by: int) -> Any:
    """To the right, with zeros at the left: frameworks lack unsigned numbers of 64 bits."""
    return (bits >> by) & ((1 << 64 - by) - 1)


def as_int64(seeds: Sequence[int]) -> NDArray[np.int64]:
    """Seeds of up to 64 bits as integers with a sign."""
    return np.array(seeds, dtype=np.uint64).view(np.int64)


def gumbel_noise(seed: int, first_step: int, shape: tuple[int, int]) -> Float32Array:
    """[steps, count] Gumbel noise of one row."""
    steps, count = shape
    bits = noise_bits(as_int64([seed]), np.arange(first_step, first_step + steps), np.arange(count))
    uniform = (bits.astype(np.float64) + 0.5) / 2.0**BITS  # never 0 nor 1
    noise: Float32Array = (-np.log(-np.log(uniform))).astype(np.float32)
    return noise


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
