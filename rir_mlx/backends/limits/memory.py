"""The memory that a work takes at its peak, above what was held before it, and memory that is given back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_gb() -> float:
    """Peak resident memory of this process in GB (2³⁰ bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def give_back() -> None:
    """Return freed memory to the system. glibc keeps it for what is allocated next: some 60 MB after a million rows
    were read, sorted and counted."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def watch_memory(place: str) -> Callable[[], float]:
    """Call it once the weights are loaded; the result tells the peak above them since then, in GB.

    `place` is `mlx`, `cuda` or `cpu`; frameworks count their own memory, of a processor it is the resident memory."""
    gc.collect()
    if place == "mlx":
        mlx: Any = sys.modules["mlx.core"]
        mlx.reset_peak_memory()
        before = mlx.get_active_memory()
        return lambda: float(mlx.get_peak_memory() - before) / 2**30
    if place == "cuda":
        cuda: Any = sys.modules["torch"].cuda
        cuda.reset_peak_memory_stats()
        taken = cuda.memory_allocated()
        return lambda: float(cuda.max_memory_allocated() - taken) / 2**30

    def peak() -> float:
        if not Path("/proc/self/status").is_file():
            return peak_gb()
        return int(Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 2**20

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets the peak back to what is resident now
    resident = peak()
    return lambda: peak() - resident
