"""MLX, PyTorch and a fake, behind one seam (`base.py`)."""

from __future__ import annotations

import importlib.util
import platform
import sys
from typing import Literal

from rir_mlx.backends.base import Backend
from rir_mlx.errors import UserError

BackendName = Literal["auto", "mlx", "torch", "fake"]


def on_apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def open_backend(name: BackendName = "auto") -> Backend:
    """The backend of that name; `auto` is MLX on Apple silicon and PyTorch elsewhere.

    Raises UserError, naming what to install, where the framework is absent."""
    match name:
        case "auto":
            return open_backend("mlx" if on_apple_silicon() else "torch")
        case "mlx":
            _require("mlx_lm", "MLX", "mlx-cpu")
            from rir_mlx.backends.mlx import MlxBackend

            return MlxBackend()
        case "torch":
            _require("torch", "PyTorch", "torch")
            _require("peft", "PEFT", "torch")
            from rir_mlx.backends.torch import TorchBackend

            return TorchBackend()
        case "fake":
            from rir_mlx.backends.fake import FakeBackend

            return FakeBackend()


def _require(module: str, what: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"{what} is not installed, so this backend cannot run.",
            mend=f"pip install 'rir-mlx[{extra}]' installs it, or choose another with --backend.",
        )
