"""MLX, PyTorch and a fake, behind one seam (`base.py`)."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import platform
import sys

from rir_mlx.backends.base import Backend
from rir_mlx.backends.on_demand import OnDemand
from rir_mlx.errors import UserError, install_extra
from rir_mlx.types import BackendName

_LAUNCHERS = ("WORLD_SIZE", "RANK", "MLX_RANK", "MLX_HOSTFILE", "MLX_WORLD_SIZE", "OMPI_", "PMI", "SLURM_PROCID")
"""What variables of the environment that launchers set begin with."""


def on_apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def open_backend(name: BackendName = "auto") -> Backend:
    """The backend of that name; `auto` is MLX on Apple silicon and PyTorch elsewhere. Its framework is imported when it
    is first used, unless a launcher started several processes.

    Raises UserError, naming what to install, if the framework is missing."""
    if name == "auto":
        return open_backend("mlx" if on_apple_silicon() else "torch")
    _check_launcher(name)
    match name:
        case "mlx":
            _require("mlx_lm", "MLX", "mlx-cpu")
            return _mlx() if _several_processes() else OnDemand("mlx", _mlx)
        case "torch":
            _require("torch", "PyTorch", "torch")
            _require("peft", "PEFT", "torch")
            return _torch() if _several_processes() else OnDemand("torch", _torch)
        case "fake":
            from rir_mlx.backends.fake import FakeBackend

            return FakeBackend()


def _mlx() -> Backend:
    from rir_mlx.backends.mlx import MlxBackend

    return MlxBackend()


def _torch() -> Backend:
    from rir_mlx.backends.torch import TorchBackend

    return TorchBackend()


def _several_processes() -> bool:
    """Whether a launcher may have started this process: then the framework says which of them it is."""
    return any(name.startswith(_LAUNCHERS) for name in os.environ)


def release_memory() -> None:
    """Free the memory of models that are no longer referenced, before the next one is loaded. Frameworks and glibc keep
    it otherwise: hundreds of MB for a model of a billion weights."""
    gc.collect()
    if mlx := sys.modules.get("mlx.core"):
        mlx.clear_cache()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _check_launcher(name: BackendName) -> None:
    """Refuse processes that cannot join: each would believe to be the only one and write into the same folder."""
    several = {"torch": int(os.environ.get("WORLD_SIZE", "1")) > 1, "mlx": "MLX_RANK" in os.environ}
    for backend, launcher in (("torch", "torchrun"), ("mlx", "mlx.launch")):
        if several[backend] and backend != name:
            raise UserError(
                f"{launcher} started this process, and the backend {name} cannot join the others.",
                hint=f"Add --backend {backend}, or start without {launcher}.",
            )


def _require(module: str, what: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"{what} is not installed, so this backend cannot run.",
            hint=f"{install_extra(extra)} installs it, or choose another with --backend.",
        )
