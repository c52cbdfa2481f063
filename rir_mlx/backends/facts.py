"""What decides a framework's speed and exactness on this machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """`accelerator` is the GPU, None for a processor. `threads` compute on the processor. `matrices` is the library
    that multiplies matrices, `slow` whether it is a reference one. With `tf32`, float32 is multiplied with 10 bits.
    `bfloat16`: whether the device is fast in it. `auto` is what `dtype: auto` means."""

    accelerator: str | None
    threads: int
    matrices: str
    slow: bool = False
    tf32: bool = False
    bfloat16: bool = False
    auto: str = "float32"
