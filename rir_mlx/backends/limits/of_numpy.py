"""One large product and one large copy in NumPy, for a backend without a framework."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def product(width: int, dtype: str) -> Callable[[], object]:
    """Of random numbers, as the frameworks' products."""
    left, right = np.random.default_rng(0).standard_normal((2, width, width), dtype=np.float32)
    out = np.empty_like(left)
    return lambda: np.matmul(left, right, out=out)


def clear() -> None:
    """NumPy keeps nothing."""


def copy(count: int) -> Callable[[], object]:
    source = np.ones(count // 4, dtype=np.float32)
    target = np.empty_like(source)
    return lambda: np.copyto(target, source)
