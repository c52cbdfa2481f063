"""One large product and one large copy in NumPy, for a backend without a framework."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def product(width: int, dtype: str) -> Callable[[], object]:
    left = np.ones((width, width), dtype=np.float32)
    out = np.empty_like(left)
    return lambda: np.matmul(left, left, out=out)


def copy(count: int) -> Callable[[], object]:
    source = np.ones(count // 4, dtype=np.float32)
    target = np.empty_like(source)
    return lambda: np.copyto(target, source)
