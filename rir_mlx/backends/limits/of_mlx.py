"""One large product and one large copy in MLX, on its default device."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx


def product(width: int, dtype: str) -> Callable[[], object]:
    left = mx.ones((width, width), dtype=getattr(mx, dtype))
    right = mx.ones_like(left)
    mx.eval(left, right)
    return lambda: mx.eval(left @ right)


def copy(count: int) -> Callable[[], object]:
    source = mx.ones(count // 4, dtype=mx.float32)
    mx.eval(source)
    return lambda: mx.eval(-source)  # MLX shares an array that is only copied: this reads and writes each number
