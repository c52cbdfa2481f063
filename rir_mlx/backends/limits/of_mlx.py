"""One large product and one large copy in MLX, on its default device."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx


def product(width: int, dtype: str) -> Callable[[], object]:
    """Of random numbers: products of ones take less power, and a GPU that has power to spare runs faster."""
    left, right = (mx.random.normal((width, width), getattr(mx, dtype), key=mx.random.key(seed)) for seed in range(2))
    mx.eval(left, right)

    def work() -> mx.array:
        result = left @ right
        mx.eval(result)
        return result

    return work


def clear() -> None:
    """Gives back what earlier sizes took."""
    mx.clear_cache()


def copy(count: int) -> Callable[[], object]:
    source = mx.ones(count // 4, dtype=mx.float32)
    mx.eval(source)
    return lambda: mx.eval(-source)  # MLX shares an array that is only copied: this reads and writes each number
