"""One large product and one large copy in PyTorch, on CUDA where there is one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rir_mlx.backends.torch.model import default_device


def product(width: int, dtype: str) -> Callable[[], object]:
    """Of random numbers: products of ones take less power, and a GPU that has power to spare runs faster."""
    device = default_device()
    drawn = torch.Generator(device).manual_seed(0)
    out = torch.empty(width, width, dtype=getattr(torch, dtype), device=device)
    left, right = (torch.empty_like(out).normal_(generator=drawn) for _ in range(2))

    def work() -> torch.Tensor:
        torch.mm(left, right, out=out)
        _wait(device)
        return out

    return work


def copy(count: int) -> Callable[[], object]:
    device = default_device()
    source = torch.ones(count // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def work() -> None:
        target.copy_(source)
        _wait(device)

    return work


def clear() -> None:
    """Gives back what earlier sizes took."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
