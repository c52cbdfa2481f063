"""Prepares the process for the first import of mlx and mlx_lm."""

from __future__ import annotations

import ctypes
import importlib.util
import resource
import sys
from pathlib import Path


def _prefer_openblas() -> str | None:
    """The OpenBLAS that MLX will multiply with, if any.

    On Linux the wheel brings a reference BLAS, some 25 times slower in float32 than OpenBLAS. An OpenBLAS that is
    loaded first and globally is the one whose symbols MLX finds: that of the `mlx-cpu` extra, or the system's."""
    if sys.platform != "linux":
        return None
    found = importlib.util.find_spec("scipy_openblas32")
    folders = found.submodule_search_locations or [] if found else []
    bundled = [str(path) for folder in folders for path in Path(folder).glob("lib/libopenblas_python.so")]
    for library in (*bundled, "libopenblas.so.0"):
        try:
            openblas = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        # MLX calls it with many small products: threads would cost more than they gain.
        openblas.openblas_set_num_threads(1)
        return f"OpenBLAS ({Path(library).name})"
    return None


OPENBLAS = _prefer_openblas()
# Importing mlx_lm lowers the process's limit of open files for good, the hard limit included.
_setrlimit, resource.setrlimit = resource.setrlimit, lambda *_: None
try:
    import mlx_lm  # noqa: F401
finally:
    resource.setrlimit = _setrlimit
